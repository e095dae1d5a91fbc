"""The annotations of a config or pipeline: one class for each task. A new task is a new class and a union member."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import Self, override

from distilbatch.config.annotation_base import AnnotationSection, Reduction, Share, Stride, TopK
from distilbatch.config.fields import ColumnName, refused, repeated_name

__all__ = [
    "Annotation",
    "FeatureExtraction",
    "FillMask",
    "MultipleChoice",
    "QuestionAnswering",
    "TextClassification",
    "TokenClassification",
    "WrittenAnnotation",
    "ZeroShotClassification",
]


class TextClassification(AnnotationSection):
    """One column of class labels with scores.

    Args:
        top_k: How many classes to write with their scores; None writes the best class alone.
        function_to_apply: How logits become scores; None takes what the checkpoint asks for.
        threshold: Least score of a class to be listed, for models with several labels a row.
        text_pair: Column of a second text that is read with each text.
        reduction: How the scores of a document's text windows become one.
        evidence: Whether to list each window with its label, score and place.
    """

    task: Literal["text-classification"] = "text-classification"
    top_k: TopK | None = None
    function_to_apply: Literal["none", "softmax", "sigmoid"] | None = None
    threshold: Share | None = None
    text_pair: ColumnName | None = None
    reduction: Reduction = "mean"
    evidence: bool = False

    @override
    def columns(self, text: str) -> tuple[tuple[str, str], ...]:
        return (("text", text), *((("text_pair", self.text_pair),) if self.text_pair else ()))

    @override
    def options(self) -> dict[str, Any]:
        return {**super().options(), "pair": self.text_pair is not None}

    @property
    @override
    def _column_fields(self) -> set[str]:
        return {"text_pair"}


class TokenClassification(AnnotationSection):
    """One column of labelled spans, such as named entities.

    Args:
        aggregation_strategy: How tokens become spans; ``none`` lists tokens.
        ignore_labels: Labels that are left out.
        words: Column with lists of words that is read in place of the text column.
    """

    task: Literal["token-classification"] = "token-classification"
    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "simple"
    ignore_labels: tuple[str, ...] = ("O",)
    words: ColumnName | None = None

    @override
    def columns(self, text: str) -> tuple[tuple[str, str], ...]:
        return (("text", text),) if self.words is None else (("words", self.words),)

    @override
    def options(self) -> dict[str, Any]:
        return {**super().options(), "words": self.words is not None}

    @property
    @override
    def _column_fields(self) -> set[str]:
        return {"words"}


class QuestionAnswering(AnnotationSection):
    """One column of answers that stand in a context, which is the source's text column.

    Args:
        question: A fixed question; or
        question_column: the column with each row's question.
        doc_stride: Tokens that neighbouring text windows of a context share; None takes 128, or half of
            ``max_length`` where that is less. Takes the place of ``stride``.
        top_k: How many answers to list.
        max_answer_len: Longest answer in tokens.
        max_question_len: Longest question in tokens; the rest is cut off.
        handle_impossible_answer: Whether "no answer" may be an answer.
        align_to_words: Whether answers begin and end with whole words.
    """

    task: Literal["question-answering"] = "question-answering"
    question: Annotated[str, Field(min_length=1)] | None = None
    question_column: ColumnName | None = None
    doc_stride: Stride | None = None
    top_k: TopK = 1
    max_answer_len: TopK = 15
    max_question_len: TopK = 64
    handle_impossible_answer: bool = False
    align_to_words: bool = True

    @model_validator(mode="after")
    def _check_question(self) -> Self:
        if (self.question is None) == (self.question_column is None):
            raise refused("name either 'question' or 'question_column'", at=("question",))
        if self.question is not None and not self.question.strip():
            raise refused("expected a text, found only blanks", at=("question",))
        if self.stride is not None:
            raise refused("question-answering calls it 'doc_stride'", at=("stride",))
        return self

    @override
    def columns(self, text: str) -> tuple[tuple[str, str], ...]:
        return (("context", text), *((("question", self.question_column),) if self.question_column else ()))

    @property
    @override
    def window_stride(self) -> int | None:
        return self.doc_stride

    @property
    @override
    def _column_fields(self) -> set[str]:
        return {"question_column", "doc_stride"}


class FillMask(AnnotationSection):
    """One column with the likeliest tokens for each mask of a text.

    Args:
        top_k: How many tokens for each mask.
        targets: The only tokens to choose among; None for the whole vocabulary.
    """

    task: Literal["fill-mask"] = "fill-mask"
    top_k: TopK = 5
    targets: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] | None = None


class MultipleChoice(AnnotationSection):
    """One column with the likeliest of several continuations of a prompt, which is the source's text column.

    Args:
        choices: Columns with one choice each, or one column with a list of choices.
        reduction: How the scores of a prompt's text windows become one.
    """

    task: Literal["multiple-choice"] = "multiple-choice"
    choices: Annotated[tuple[ColumnName, ...], Field(min_length=1)]
    reduction: Reduction = "mean"

    @override
    def columns(self, text: str) -> tuple[tuple[str, str], ...]:
        return (("prompt", text), *(("choices", name) for name in self.choices))

    @property
    @override
    def _column_fields(self) -> set[str]:
        return {"choices"}


class FeatureExtraction(AnnotationSection):
    """One column of embeddings.

    Args:
        pooling: How token vectors become one; ``none`` keeps all of them.
        normalize: Whether vectors get length 1.
        truncate_dim: How many leading dimensions to keep; None keeps all.
        output: Number format of the column; ``int8`` is scaled by 127 and needs ``normalize``.
    """

    task: Literal["feature-extraction"] = "feature-extraction"
    pooling: Literal["cls", "mean", "max", "none"] = "mean"
    normalize: bool = False
    truncate_dim: TopK | None = None
    output: Literal["float32", "float16", "int8"] = "float32"

    @model_validator(mode="after")
    def _check_output(self) -> Self:
        if self.output == "int8" and not self.normalize:
            raise refused("int8 needs normalize: true, so that values lie between -1 and 1", at=("output",))
        return self


class ZeroShotClassification(AnnotationSection):
    """One column of labels the model was never trained on, judged by a natural language inference head.

    Args:
        candidate_labels: The labels.
        hypothesis_template: Sentence with ``{}`` or ``{0}`` in the place of a label; ``{{`` and ``}}`` are braces.
        multi_label: Whether labels are judged one by one.
        reduction: How the scores of a document's text windows become one.
        evidence: Whether to list each window with its label, score and place.
    """

    task: Literal["zero-shot-classification"] = "zero-shot-classification"
    candidate_labels: Annotated[tuple[str, ...], Field(min_length=1)]
    hypothesis_template: str = "This example is {}."
    multi_label: bool = False
    reduction: Reduction = "mean"
    evidence: bool = False

    @model_validator(mode="after")
    def _check_hypotheses(self) -> Self:
        if not _has_one_place(self.hypothesis_template):
            message = "expected exactly one '{}' or '{0}' for the label, and other braces doubled"
            raise refused(message, at=("hypothesis_template",))
        for index, label in enumerate(self.candidate_labels):
            if not label.strip():
                raise refused("expected a label, found only blanks", at=("candidate_labels", index))
        if (twice := repeated_name(self.candidate_labels)) is not None:
            raise refused(f"'{self.candidate_labels[twice]}' is listed twice", at=("candidate_labels", twice))
        return self


def _has_one_place(template: str) -> bool:
    """Whether a format string has one place to fill in, which looks at nothing inside of what it is filled with."""
    try:
        places = [place for _, *place in Formatter().parse(template) if place[0] is not None]
    except ValueError:
        return False
    return places in ([["", "", None]], [["0", "", None]])


Annotation = (
    TextClassification
    | TokenClassification
    | QuestionAnswering
    | FillMask
    | MultipleChoice
    | FeatureExtraction
    | ZeroShotClassification
)


def _require_task(value: object) -> object:
    # A config that leaves the task out would change its meaning, or break, when there is another task.
    if isinstance(value, Mapping) and "task" not in value:
        raise refused("required key is missing, for example 'text-classification'", at=("task",))
    return value


WrittenAnnotation = Annotated[Annotation, Field(discriminator="task"), BeforeValidator(_require_task)]
