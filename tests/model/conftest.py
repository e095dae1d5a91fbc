"""A tiny checkpoint of every kind, and one thread, for the tests of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from distilbatch.model import modeling
from distilbatch.model.configuration import DistilBertConfig

TINY = DistilBertConfig(
    vocab_size=40,
    max_position_embeddings=16,
    n_layers=2,
    n_heads=2,
    dim=8,
    hidden_dim=12,
    initializer_range=0.3,
    id2label={0: "no", 1: "yes", 2: "maybe"},
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_config() -> DistilBertConfig:
    return TINY


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Callable[[str], Path]:
    """Write a checkpoint of a class by its short name (``SequenceClassification``, ``Model``, ...)."""

    def write(kind: str = "ForSequenceClassification") -> Path:
        torch.manual_seed(3)
        model = getattr(modeling, f"DistilBert{kind}")(TINY)
        folder = tmp_path / kind
        model.save_pretrained(folder)
        return folder

    return write
