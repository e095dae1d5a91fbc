"""From a description of a head to the loaded thing: what it asks, its model, and what is read off that."""

from __future__ import annotations

from dataclasses import dataclass

from distilbatch.engine.checkpoints import check_head, refuse_other_head
from distilbatch.engine.preparation import PreparedHead, mask_of, prepare_head, target_ids
from distilbatch.engine.spec import HeadSpec
from distilbatch.inference.readouts import Embedding, MaskScores, Readout, SequenceLogits, TokenLogits
from distilbatch.model.auto import ARCHITECTURES, architectures_of
from distilbatch.model.modeling import PreTrainedModel
from distilbatch.tasks.base import Task
from distilbatch.tasks.catalog import TASK_HEADS
from distilbatch.tasks.feature_extraction import FeatureExtractionOptions
from distilbatch.tasks.fill_mask import FillMaskOptions
from distilbatch.tokenization import DocumentTokenizer

_READOUTS: dict[str, type[SequenceLogits | TokenLogits]] = {
    "text-classification": SequenceLogits,
    "token-classification": TokenLogits,
    "question-answering": TokenLogits,
    "multiple-choice": SequenceLogits,
    "zero-shot-classification": SequenceLogits,
}


@dataclass(frozen=True, slots=True)
class LoadedHead:
    """A head ready to be put on a device.

    Args:
        spec: What it was loaded from.
        model: The model.
        tokenizer: The tokenizer of its checkpoint.
        task: What turns texts into sequences and outputs into a column.
        readout: What is read off the model.
        details: Whether the task needs to know where tokens come from.
    """

    spec: HeadSpec
    model: PreTrainedModel
    tokenizer: DocumentTokenizer
    task: Task
    readout: Readout
    details: bool = False


def load_head(spec: HeadSpec) -> LoadedHead:
    """Load a checkpoint for a task.

    Raises:
        CheckpointError: The folder is damaged or has another head.
        ConfigError: An option does not go with the checkpoint, or ``max_length`` and ``stride`` not with each other.
    """
    check_head(spec)
    refuse_other_head(spec, architectures_of(spec.model))  # by its tensors, too
    prepared = prepare_head(spec)
    model = ARCHITECTURES[TASK_HEADS[spec.task]].from_pretrained(spec.model)
    return LoadedHead(spec, model, prepared.tokenizer, prepared.task, _readout(prepared), prepared.details)


def _readout(head: PreparedHead) -> Readout:
    if head.spec.task == "fill-mask":
        top_k = FillMaskOptions(**head.spec.options).top_k
        return MaskScores(mask_of(head.spec, head.tokenizer)[1], top_k, target_ids(head.spec, head.tokenizer))
    if head.spec.task == "feature-extraction":
        return Embedding(FeatureExtractionOptions(**head.spec.options).pooling)
    return _READOUTS[head.spec.task]()
