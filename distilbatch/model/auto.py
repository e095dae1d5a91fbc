"""Load whatever model a checkpoint folder says it holds."""

from __future__ import annotations

from pathlib import Path

import torch

from distilbatch.errors import CheckpointError
from distilbatch.model.checkpoint import check_folder
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


def load(
    folder: Path | str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str = "sdpa",
) -> PreTrainedModel:
    """Load the model named by ``architectures`` in the folder's config; see ``PreTrainedModel.from_pretrained``.

    Raises:
        CheckpointError: The config names no model of this library, or the checkpoint is not complete.
    """
    check_folder(Path(folder))
    config = DistilBertConfig.from_file(Path(folder) / CONFIG_FILE)
    cls = next((ARCHITECTURES[name] for name in config.architectures if name in ARCHITECTURES), None)
    if cls is None:
        raise CheckpointError(
            f"{Path(folder) / CONFIG_FILE}: architectures",
            expected=f"one of {', '.join(ARCHITECTURES)}",
            found=", ".join(config.architectures) or "nothing",
            remedy="load it through the class of the head it has",
        )
    return cls.from_pretrained(folder, dtype=dtype, device=device, attn_implementation=attn_implementation)
