"""From a description of a head to the loaded thing: for each task its model class, its readout and its task object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from distilbatch.engine.checkpoints import check_head
from distilbatch.engine.spec import HeadSpec
from distilbatch.errors import ConfigError
from distilbatch.inference.readouts import Readout, SequenceLogits
from distilbatch.model.auto import ARCHITECTURES
from distilbatch.model.modeling import PreTrainedModel
from distilbatch.tasks.base import Task
from distilbatch.tasks.catalog import TASK_HEADS
from distilbatch.tasks.text_classification import TextClassificationOptions, TextClassificationTask
from distilbatch.tokenization import DocumentTokenizer
from distilbatch.tokenization.tokenizer import MIN_MAX_LENGTH

DEFAULT_MAX_LENGTH = 512


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


Parts = tuple[Task, Readout, bool]


def load_head(spec: HeadSpec) -> LoadedHead:
    """Load a checkpoint for a task.

    Raises:
        CheckpointError: The folder is damaged or has another head.
        ConfigError: An option does not go with the checkpoint.
    """
    check_head(spec)
    model = ARCHITECTURES[TASK_HEADS[spec.task]].from_pretrained(spec.model)
    tokenizer = DocumentTokenizer.from_folder(spec.model, max_length=_max_length(spec, model), stride=spec.stride)
    task, readout, details = _BUILDERS[spec.task](spec, model, tokenizer)
    return LoadedHead(spec, model, tokenizer, task, readout, details)


def _max_length(spec: HeadSpec, model: PreTrainedModel) -> int:
    positions = model.config.max_position_embeddings
    max_length = spec.max_length or min(positions, DEFAULT_MAX_LENGTH)
    if not MIN_MAX_LENGTH <= max_length <= positions:
        raise ConfigError(
            f"annotation {spec.name!r}: max_length",
            expected=f"{MIN_MAX_LENGTH} to {positions}, the positions of {spec.model}",
            found=str(max_length),
        )
    return max_length


def _text_classification(spec: HeadSpec, model: PreTrainedModel, tokenizer: DocumentTokenizer) -> Parts:
    options = TextClassificationOptions(**spec.options)
    task = TextClassificationTask(model.config.labels, options, problem_type=model.config.problem_type)
    return task, SequenceLogits(), options.evidence


_BUILDERS: dict[str, Callable[[HeadSpec, PreTrainedModel, DocumentTokenizer], Parts]] = {
    "text-classification": _text_classification,
}
