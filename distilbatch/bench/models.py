"""The models that a benchmark measures when it is given none: DistilBERT's default size, and the converted MiniLM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from distilbatch.demo.weights import minilm_folder
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.convert import convert_bert, copy_tokenizer
from distilbatch.model.modeling import DistilBertForSequenceClassification, DistilBertModel

BASE, MINILM = "base", "minilm"


def write_base(folder: Path, *, seed: int) -> str:
    """Write a classifier of DistilBERT's default size with random weights: speed does not depend on them.

    Returns:
        What it is.

    Raises:
        SetupError: The package with the vocabulary is not installed.
    """
    vocabulary = minilm_folder()
    torch.manual_seed(seed)
    DistilBertForSequenceClassification(DistilBertConfig()).save_pretrained(folder)
    copy_tokenizer(vocabulary, folder)
    return f"DistilBERT-base sequence classifier, random weights, seed {seed}"


def write_minilm(folder: Path, *, seed: int) -> str:
    """Write the encoder of all-MiniLM-L6-v2, converted, under a classifier with random weights.

    Returns:
        What it is.

    Raises:
        SetupError: The package with its weights is not installed.
    """
    encoder = folder.with_name(f"{folder.name}-encoder")
    convert_bert(minilm_folder(), encoder)
    trunk = DistilBertModel.from_pretrained(encoder)
    torch.manual_seed(seed)
    model = DistilBertForSequenceClassification(trunk.config)
    model.distilbert.load_state_dict(trunk.state_dict())
    model.save_pretrained(folder)
    copy_tokenizer(encoder, folder)
    return f"all-MiniLM-L6-v2 converted, sequence classifier with a random head, seed {seed}"


WRITERS: dict[str, Callable[..., str]] = {BASE: write_base, MINILM: write_minilm}
"""By the name that stands for a model in place of a folder."""
