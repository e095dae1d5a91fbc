"""From a description of a head to the loaded thing: for each task its model class, its readout and its task object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from distilbatch.engine.checkpoints import check_head, refuse_other_head
from distilbatch.engine.spec import DEFAULT_MAX_LENGTH, QUESTION_ANSWERING, HeadSpec
from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.inference.readouts import Embedding, MaskScores, Readout, SequenceLogits, TokenLogits
from distilbatch.model.auto import ARCHITECTURES, architectures_of
from distilbatch.model.modeling import PreTrainedModel
from distilbatch.tasks.base import Task
from distilbatch.tasks.catalog import TASK_HEADS
from distilbatch.tasks.feature_extraction import FeatureExtractionOptions, FeatureExtractionTask
from distilbatch.tasks.fill_mask import FillMaskOptions, FillMaskTask
from distilbatch.tasks.multiple_choice import MultipleChoiceOptions, MultipleChoiceTask
from distilbatch.tasks.question_answering import (
    DOC_STRIDE,
    MAX_LENGTH,
    QuestionAnsweringOptions,
    QuestionAnsweringTask,
)
from distilbatch.tasks.text_classification import TextClassificationOptions, TextClassificationTask
from distilbatch.tasks.text_windows import needs_details
from distilbatch.tasks.token_classification import TokenClassificationOptions, TokenClassificationTask, Vocabulary
from distilbatch.tasks.zero_shot import ZeroShotClassificationOptions, ZeroShotClassificationTask
from distilbatch.tokenization import DocumentTokenizer
from distilbatch.tokenization.tokenizer import MIN_MAX_LENGTH

MASK_TOKEN = "[MASK]"
ZERO_SHOT = "zero-shot-classification"


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
        ConfigError: An option does not go with the checkpoint, or ``max_length`` and ``stride`` not with each other.
    """
    check_head(spec)
    refuse_other_head(spec, architectures_of(spec.model))
    model = ARCHITECTURES[TASK_HEADS[spec.task]].from_pretrained(spec.model)
    tokenizer = _tokenizer(spec, _max_length(spec, model))
    _check_room(spec, tokenizer)
    task, readout, details = _BUILDERS[spec.task](spec, model, tokenizer)
    return LoadedHead(spec, model, tokenizer, task, readout, details)


def _max_length(spec: HeadSpec, model: PreTrainedModel) -> int:
    positions = model.config.max_position_embeddings
    default = MAX_LENGTH if spec.task == QUESTION_ANSWERING else DEFAULT_MAX_LENGTH
    max_length = spec.max_length or min(positions, default)
    if not MIN_MAX_LENGTH <= max_length <= positions:
        raise ConfigError(
            f"annotation {spec.name!r}: max_length",
            expected=f"{MIN_MAX_LENGTH} to {positions}, the positions of {spec.model}",
            found=str(max_length),
        )
    return max_length


def _tokenizer(spec: HeadSpec, max_length: int) -> DocumentTokenizer:
    if spec.task != QUESTION_ANSWERING:
        return DocumentTokenizer.from_folder(spec.model, max_length=max_length, stride=spec.stride)
    stride = min(max_length // 2, DOC_STRIDE) if spec.stride is None else spec.stride
    max_first = QuestionAnsweringOptions(**spec.options).max_question_len
    return DocumentTokenizer.from_folder(spec.model, max_length=max_length, stride=stride, max_first=max_first)


def _check_room(spec: HeadSpec, tokenizer: DocumentTokenizer) -> None:
    pairs = spec.task in {QUESTION_ANSWERING, ZERO_SHOT} or len(spec.columns) > 1
    try:
        tokenizer.check_room(pairs=pairs)
    except ConfigError as error:
        what = f"annotation {spec.name!r}: {error.what}"
        raise ConfigError(what, expected=error.expected, found=error.found, remedy=error.remedy) from error


def _text_classification(spec: HeadSpec, model: PreTrainedModel, tokenizer: DocumentTokenizer) -> Parts:
    options = TextClassificationOptions(**spec.options)
    task = TextClassificationTask(model.config.labels, options, problem_type=model.config.problem_type)
    details = needs_details(reduction=options.reduction, evidence=options.evidence, pairs=options.pair)
    return task, SequenceLogits(), details


def _token_classification(spec: HeadSpec, model: PreTrainedModel, tokenizer: DocumentTokenizer) -> Parts:
    options = TokenClassificationOptions(**spec.options)
    vocabulary = Vocabulary(
        tokens=[tokenizer.id_to_token(token_id) for token_id in range(tokenizer.vocab_size)],
        unknown_id=tokenizer.unknown_id,
        marks_words=tokenizer.marks_words,
        join=tokenizer.join_tokens,
    )
    task = TokenClassificationTask(model.config.labels, options, vocabulary=vocabulary, stride=spec.stride)
    return task, TokenLogits(), True


def _question_answering(spec: HeadSpec, model: PreTrainedModel, tokenizer: DocumentTokenizer) -> Parts:
    options = QuestionAnsweringOptions(**spec.options)
    return QuestionAnsweringTask(options, continues=tokenizer.continuations()), TokenLogits(), True


def _fill_mask(spec: HeadSpec, model: PreTrainedModel, tokenizer: DocumentTokenizer) -> Parts:
    options = FillMaskOptions(**spec.options)
    mask_id = tokenizer.token_to_id(MASK_TOKEN)
    if mask_id is None:
        raise CheckpointError(f"{spec.model}: the vocabulary has no {MASK_TOKEN}", expected="a masked language model's")
    targets = tuple(dict.fromkeys(_target_id(spec, tokenizer, target) for target in options.targets or ()))
    readout = MaskScores(mask_id, options.top_k, targets)
    task = FillMaskTask(
        token_text=lambda token_id: tokenizer.join_tokens([tokenizer.id_to_token(token_id)]),
        mask_token=MASK_TOKEN,
        mask_token_id=mask_id,
        stride=spec.stride,
    )
    return task, readout, spec.stride is not None


def _target_id(spec: HeadSpec, tokenizer: DocumentTokenizer, target: str) -> int:
    ids = tokenizer.encode([target]).input_ids.tolist()[1:-1]
    if (found := tokenizer.token_to_id(target)) is not None:
        return found
    if not ids:
        raise ConfigError(f"annotation {spec.name!r}: targets", expected="words of the vocabulary", found=repr(target))
    return int(ids[0])  # as the pipeline does, the first token of a word that is none itself


def _multiple_choice(spec: HeadSpec, model: PreTrainedModel, tokenizer: DocumentTokenizer) -> Parts:
    options = MultipleChoiceOptions(**spec.options)
    return MultipleChoiceTask(options), SequenceLogits(), needs_details(reduction=options.reduction, pairs=True)


def _feature_extraction(spec: HeadSpec, model: PreTrainedModel, tokenizer: DocumentTokenizer) -> Parts:
    options = FeatureExtractionOptions(**spec.options)
    return FeatureExtractionTask(model.config.dim, options), Embedding(options.pooling), False


def _zero_shot(spec: HeadSpec, model: PreTrainedModel, tokenizer: DocumentTokenizer) -> Parts:
    options = ZeroShotClassificationOptions(**spec.options)
    details = needs_details(reduction=options.reduction, evidence=options.evidence, pairs=True)
    return ZeroShotClassificationTask(model.config.labels, options), SequenceLogits(), details


_BUILDERS: dict[str, Callable[[HeadSpec, PreTrainedModel, DocumentTokenizer], Parts]] = {
    "text-classification": _text_classification,
    "token-classification": _token_classification,
    QUESTION_ANSWERING: _question_answering,
    "fill-mask": _fill_mask,
    "multiple-choice": _multiple_choice,
    "feature-extraction": _feature_extraction,
    ZERO_SHOT: _zero_shot,
}
