"""What a head asks and how it answers, from its checkpoint's config and tokenizer alone: no weights, and no torch.

So a driver can refuse what no worker could compute before anything is planned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from distilbatch.engine.checkpoints import check_head
from distilbatch.engine.spec import DEFAULT_MAX_LENGTH, QUESTION_ANSWERING, HeadSpec
from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.model.configuration import CONFIG_FILE, DistilBertConfig
from distilbatch.tasks.base import Task
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
from distilbatch.tokenization.options import TokenizerOptions
from distilbatch.tokenization.tokenizer import MIN_MAX_LENGTH

ZERO_SHOT = "zero-shot-classification"


@dataclass(frozen=True, slots=True)
class PreparedHead:
    """A head but for its model.

    Args:
        spec: What it was prepared from.
        config: The config of its checkpoint.
        tokenizer: The tokenizer of its checkpoint.
        task: What turns texts into sequences and outputs into a column.
        details: Whether the task needs to know where tokens come from.
    """

    spec: HeadSpec
    config: DistilBertConfig
    tokenizer: DocumentTokenizer
    task: Task
    details: bool


Parts = tuple[Task, bool]


def prepare_head(spec: HeadSpec) -> PreparedHead:
    """Read config and tokenizer of a checkpoint for a task.

    Raises:
        CheckpointError: The folder is damaged, has another head, or its tokenizer is of another model.
        ConfigError: An option does not go with the checkpoint, or ``max_length`` and ``stride`` not with each other.
    """
    check_head(spec)
    config = DistilBertConfig.from_file(spec.model / CONFIG_FILE)
    tokenizer = _tokenizer(spec, _max_length(spec, config))
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{spec.model}: tokenizer and model do not belong together",
            expected=f"at most {config.vocab_size} entries, as in config.json",
            found=f"{tokenizer.vocab_size} in the tokenizer",
        )
    task, details = _BUILDERS[spec.task](spec, config, tokenizer)
    _check_room(spec, tokenizer, task)
    return PreparedHead(spec, config, tokenizer, task, details)


def suitable_max_length(spec: HeadSpec, positions: int) -> int:
    """Most tokens of a sequence: what the annotation says, else what task, tokenizer and ``positions`` allow.

    Raises:
        CheckpointError: The tokenizer's config cannot be read.
    """
    default = MAX_LENGTH if spec.task == QUESTION_ANSWERING else DEFAULT_MAX_LENGTH
    return spec.max_length or TokenizerOptions.read(spec.model).most_tokens(positions, default)


def _max_length(spec: HeadSpec, config: DistilBertConfig) -> int:
    positions = config.max_position_embeddings
    max_length = suitable_max_length(spec, positions)
    if not MIN_MAX_LENGTH <= max_length <= positions:
        raise ConfigError(
            f"annotation {spec.name!r}: max_length",
            expected=f"{MIN_MAX_LENGTH} to {positions}, the positions of {spec.model}",
            found=str(max_length),
        )
    return max_length


def _tokenizer(spec: HeadSpec, max_length: int) -> DocumentTokenizer:
    if spec.task != QUESTION_ANSWERING:
        return DocumentTokenizer.from_folder(
            spec.model,
            max_length=max_length,
            stride=spec.stride,
            whole_second=spec.task == ZERO_SHOT,  # what is left of a hypothesis may lack its label
        )
    stride = min(max_length // 2, DOC_STRIDE) if spec.stride is None else spec.stride
    max_first = QuestionAnsweringOptions(**spec.options).max_question_len
    return DocumentTokenizer.from_folder(spec.model, max_length=max_length, stride=stride, max_first=max_first)


def _check_room(spec: HeadSpec, tokenizer: DocumentTokenizer, task: Task) -> None:
    pairs = spec.task in {QUESTION_ANSWERING, ZERO_SHOT} or len(spec.columns) > 1
    try:
        tokenizer.check_room(pairs=pairs)
        if isinstance(task, ZeroShotClassificationTask):
            tokenizer.check_beside(task.hypotheses)
    except ConfigError as error:
        what = f"annotation {spec.name!r}: {error.what}"
        raise ConfigError(what, expected=error.expected, found=error.found, remedy=error.remedy) from error


def _text_classification(spec: HeadSpec, config: DistilBertConfig, tokenizer: DocumentTokenizer) -> Parts:
    options = TextClassificationOptions(**spec.options)
    task = TextClassificationTask(config.labels, options, problem_type=config.problem_type)
    details = needs_details(reduction=options.reduction, evidence=options.evidence, pairs=options.pair)
    return task, details


def _token_classification(spec: HeadSpec, config: DistilBertConfig, tokenizer: DocumentTokenizer) -> Parts:
    options = TokenClassificationOptions(**spec.options)
    vocabulary = Vocabulary(
        tokens=[tokenizer.id_to_token(token_id) for token_id in range(tokenizer.vocab_size)],
        unknown_id=tokenizer.unknown_id,
        marks_words=tokenizer.marks_words,
        join=tokenizer.join_tokens,
    )
    task = TokenClassificationTask(config.labels, options, vocabulary=vocabulary, stride=spec.stride)
    return task, True


def _question_answering(spec: HeadSpec, config: DistilBertConfig, tokenizer: DocumentTokenizer) -> Parts:
    options = QuestionAnsweringOptions(**spec.options)
    return QuestionAnsweringTask(options, continues=tokenizer.continuations()), True


def _fill_mask(spec: HeadSpec, config: DistilBertConfig, tokenizer: DocumentTokenizer) -> Parts:
    target_ids(spec, tokenizer)  # refused here where they are no words
    token, token_id = mask_of(spec, tokenizer)
    task = FillMaskTask(
        token_text=lambda token_id: tokenizer.join_tokens([tokenizer.id_to_token(token_id)]),
        mask_token=token,
        mask_token_id=token_id,
        stride=spec.stride,
    )
    return task, spec.stride is not None


def mask_of(spec: HeadSpec, tokenizer: DocumentTokenizer) -> tuple[str, int]:
    """The mask token and its id.

    Raises:
        CheckpointError: The tokenizer names none, or the vocabulary lacks it.
    """
    mask = TokenizerOptions.read(spec.model).special.get("mask")
    mask_id = None if mask is None else tokenizer.token_to_id(mask.content)
    if mask is None or mask_id is None:
        found = "none" if mask is None else f"no {mask.content}"
        raise CheckpointError(f"{spec.model}: vocabulary", expected="a mask token", found=found)
    return mask.content, mask_id


def target_ids(spec: HeadSpec, tokenizer: DocumentTokenizer) -> tuple[int, ...]:
    """The ids of the words that alone may fill a mask, each once; empty where all may.

    Raises:
        ConfigError: One has no token.
    """
    targets = FillMaskOptions(**spec.options).targets or ()
    return tuple(dict.fromkeys(_target_id(spec, tokenizer, target) for target in targets))


def _target_id(spec: HeadSpec, tokenizer: DocumentTokenizer, target: str) -> int:
    ids = tokenizer.encode([target]).input_ids.tolist()[1:-1]
    if (found := tokenizer.token_to_id(target)) is not None:
        return found
    if not ids:
        raise ConfigError(f"annotation {spec.name!r}: targets", expected="words of the vocabulary", found=repr(target))
    return int(ids[0])  # as the pipeline does, the first token of a word that is none itself


def _multiple_choice(spec: HeadSpec, config: DistilBertConfig, tokenizer: DocumentTokenizer) -> Parts:
    options = MultipleChoiceOptions(**spec.options)
    return MultipleChoiceTask(options), needs_details(reduction=options.reduction, pairs=True)


def _feature_extraction(spec: HeadSpec, config: DistilBertConfig, tokenizer: DocumentTokenizer) -> Parts:
    options = FeatureExtractionOptions(**spec.options)
    return FeatureExtractionTask(config.dim, options), False


def _zero_shot(spec: HeadSpec, config: DistilBertConfig, tokenizer: DocumentTokenizer) -> Parts:
    options = ZeroShotClassificationOptions(**spec.options)
    details = needs_details(reduction=options.reduction, evidence=options.evidence, pairs=True)
    return ZeroShotClassificationTask(config.labels, options, label_ids=config.label2id), details


_BUILDERS: dict[str, Callable[[HeadSpec, DistilBertConfig, DocumentTokenizer], Parts]] = {
    "text-classification": _text_classification,
    "token-classification": _token_classification,
    QUESTION_ANSWERING: _question_answering,
    "fill-mask": _fill_mask,
    "multiple-choice": _multiple_choice,
    "feature-extraction": _feature_extraction,
    ZERO_SHOT: _zero_shot,
}
