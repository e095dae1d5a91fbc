"""Load whatever model a checkpoint says it holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from distilbatch.errors import CheckpointError
from distilbatch.model.architectures import known_models
from distilbatch.model.checkpoint import check_folder, read_entries
from distilbatch.model.configuration import CONFIG_FILE, DistilBertConfig
from distilbatch.model.modeling import (
    DistilBertForMaskedLM,
    DistilBertForMultipleChoice,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
    PreTrainedModel,
)
from distilbatch.model.source import locate

ARCHITECTURES: dict[str, type[PreTrainedModel]] = {
    cls.__name__: cls
    for cls in (
        DistilBertModel,
        DistilBertForSequenceClassification,
        DistilBertForTokenClassification,
        DistilBertForQuestionAnswering,
        DistilBertForMaskedLM,
        DistilBertForMultipleChoice,
    )
}


def architectures_of(folder: Path) -> tuple[str, ...]:
    """Name the models that a checkpoint can be: as its config says, else by the tensors of its head.

    Raises:
        CheckpointError: A file is missing, damaged or of another model.
    """
    named = known_models(DistilBertConfig.from_file(folder / CONFIG_FILE).architectures)
    if named:
        return named
    shapes = {name: entry.shape for name, entry in read_entries(folder).items()}
    if "qa_outputs.weight" in shapes:
        return (DistilBertForQuestionAnswering.__name__,)
    if any(name.startswith("vocab_") for name in shapes):
        return (DistilBertForMaskedLM.__name__,)
    if "classifier.weight" not in shapes:
        return (DistilBertModel.__name__,)
    if "pre_classifier.weight" not in shapes:
        return (DistilBertForTokenClassification.__name__,)
    # One output is a score of a choice, or a regression.
    choice = (DistilBertForMultipleChoice.__name__,) if shapes["classifier.weight"][:1] == (1,) else ()
    return (DistilBertForSequenceClassification.__name__, *choice)


def load(
    name: Path | str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str = "sdpa",
    allow_pickle: bool = False,
    local_files_only: bool = False,
) -> PreTrainedModel:
    """Load the model named by ``architectures`` in a checkpoint's config; see ``PreTrainedModel.from_pretrained``.

    Raises:
        CheckpointError: The config names no model of this library, or the checkpoint is not complete.
    """
    source = locate(name, revision=revision, allow_pickle=allow_pickle, local_files_only=local_files_only)
    check_folder(source.folder)
    config = DistilBertConfig.from_file(source.folder / CONFIG_FILE)
    named = known_models(config.architectures)
    if not named:
        raise CheckpointError(
            f"{source.folder / CONFIG_FILE}: architectures",
            expected=f"one of {', '.join(ARCHITECTURES)}",
            found=", ".join(config.architectures) or "nothing",
            remedy="load it through the class of the head it has",
        )
    model = ARCHITECTURES[named[0]].from_pretrained(
        source.folder, dtype=dtype, device=device, attn_implementation=attn_implementation, allow_pickle=allow_pickle
    )
    if model.origin is not None:
        model.origin = replace(model.origin, source=source)
    return model
