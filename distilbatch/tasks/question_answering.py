"""Extractive question answering: start and end scores to answers, with the semantics of the Hugging Face pipeline.

Source of the rules: the documentation of ``transformers.QuestionAnsweringPipeline``, version 4.57, the last with that
pipeline. Long contexts are read in text windows; the best answers of all windows are taken.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from typing_extensions import override

from distilbatch import schema
from distilbatch.errors import ConfigError
from distilbatch.records import Decoded, HeadOutput, Sequences, TokenDetails
from distilbatch.tasks.answer_spans import Contexts, Spans, best_spans, read_contexts
from distilbatch.tasks.base import NOT_FINITE, Asked, Inputs, Task, failed_rows, scatter
from distilbatch.tasks.document_tokens import answered_documents

MAX_LENGTH = 384
DOC_STRIDE = 128
NO_QUESTION = "the question is missing or empty"
NO_CONTEXT = "the context is missing or empty"

_CONTEXT_PART = 2


@dataclass(frozen=True, slots=True)
class QuestionAnsweringOptions:
    """What a user may choose.

    Args:
        question: What is asked of every context; None where each row has a question of its own.
        top_k: How many answers to list, at most.
        max_answer_len: Longest answer in tokens.
        max_question_len: Longest question in tokens; the rest is cut off.
        handle_impossible_answer: Whether "no answer" (an empty text at 0) may be an answer.
        align_to_words: Whether answers begin and end with whole words.
    """

    question: str | None = None
    top_k: int = 1
    max_answer_len: int = 15
    max_question_len: int = 64
    handle_impossible_answer: bool = False
    align_to_words: bool = True


class QuestionAnsweringTask(Task):
    """``list<struct<answer, score, start, end>>``: spans of the context by falling score.

    Equal answers (upper and lower case aside) are listed once, at the likeliest place, with the sum of their scores;
    over overlapping windows it may exceed 1.

    Args:
        options: The user's choices.
        continues: ``(V,)`` which token ids go on with the word of the token before them.

    Raises:
        ConfigError: The fixed question is blank, or a number is below 1.
    """

    def __init__(self, options: QuestionAnsweringOptions, *, continues: NDArray[np.bool_]) -> None:
        if options.question is not None and not options.question.strip():
            raise ConfigError("question is blank", expected="a text")
        for name in ("top_k", "max_answer_len", "max_question_len"):
            if (value := getattr(options, name)) < 1:
                raise ConfigError(f"{name} is too small", expected="at least 1", found=str(value))
        self._options = options
        self._continues = continues
        # Several spans may be one answer once they are aligned to words.
        self._spans_per_window = 2 * options.top_k + 10 if options.align_to_words else options.top_k

    @property
    @override
    def type(self) -> pa.DataType:
        return schema.answers_type()

    @property
    @override
    def sharing_key(self) -> Hashable:
        return "question", self._options.question, self._options.max_question_len

    @override
    def sequences(self, inputs: Inputs) -> Sequences:
        contexts = inputs["context"]
        fixed = self._options.question
        questions = inputs["question"] if fixed is None else [fixed] * len(contexts)
        known = [(row, text is not None, questions[row] is not None) for row, text in enumerate(contexts)]
        both = [row for row, context, question in known if context and question]
        errors = {row: NO_QUESTION for row, context, question in known if context and not question}
        if fixed is None:  # else a row asks nothing, and one without a text is null or empty as in every task
            errors |= {row: NO_CONTEXT for row, context, question in known if question and not context}
        return Sequences(
            first=[str(questions[row]) for row in both],
            second=[str(contexts[row]) for row in both],
            rows=np.array(both, dtype=np.int64),
            errors=errors,
        )

    @override
    def decode(self, output: HeadOutput, asked: Asked) -> Decoded:
        details = asked.tokens.details
        if details is None:
            raise ValueError("question answering: expected token details, found none")
        errors = _errors(output, asked, details)
        if self._options.question is None:
            errors |= dict.fromkeys(asked.sequences.rows[asked.tokens.blank].tolist(), NO_CONTEXT)
        answered = answered_documents(output, asked)
        whole = ~np.isin(asked.document_rows[answered], list(errors))
        documents = answered[whole]
        if not len(documents):
            return Decoded(pa.nulls(asked.num_rows, self.type), errors)
        kept = np.repeat(whole, asked.tokens.lengths[answered])
        positions = output.positions[kept]
        is_context = details.parts[positions] == _CONTEXT_PART
        contexts = read_contexts(output.values[kept], is_context, asked.tokens.lengths[documents])
        places = self._places(contexts, asked.tokens.input_ids, positions[contexts.tokens], details)
        spans = best_spans(contexts, count=self._spans_per_window, max_tokens=self._options.max_answer_len)
        answers = _merge(spans, places, documents, asked)
        if self._options.handle_impossible_answer:
            for row, score in _least_likely(contexts.no_answer, asked.document_rows[documents]):
                answers[row].append(_Answer("", 0, 0, score))
        lists = [
            sorted(found, key=attrgetter("score"), reverse=True)[: self._options.top_k] for found in answers.values()
        ]
        column = scatter(_column(lists), np.fromiter(answers, np.int64), num_rows=asked.num_rows)
        return Decoded(column, errors)

    def _places(
        self, contexts: Contexts, input_ids: NDArray[np.int32], positions: NDArray[np.int64], details: TokenDetails
    ) -> NDArray[np.int32]:
        """``(K, 2)``, where an answer begins that starts with a context token, and where one ends that ends with it."""
        offsets = details.offsets[positions]
        if not self._options.align_to_words:
            return offsets
        begins = ~self._continues[input_ids[positions]]
        begins[contexts.begins] = True  # of a word cut by its window, what is in the window
        words = np.cumsum(begins) - 1
        first = np.flatnonzero(begins)
        last = np.append(first[1:], len(begins)) - 1
        return np.column_stack([offsets[first, 0][words], offsets[last, 1][words]])


@dataclass(slots=True)
class _Answer:
    """An answer whose score grows while equal ones are found."""

    text: str
    start: int
    end: int
    score: float


def _errors(output: HeadOutput, asked: Asked, details: TokenDetails) -> dict[int, str]:
    """Rows without an answer: one of their windows failed, has scores that are no numbers, or holds no question."""
    begins, rows = asked.tokens.cu_seqlens[:-1], asked.document_rows
    errors = failed_rows(answered_documents(output, asked), asked)
    broken = output.positions[~np.isfinite(output.values).all(axis=1)]
    owners = np.searchsorted(begins, broken, side="right") - 1
    errors |= dict.fromkeys(rows[owners].tolist(), NOT_FINITE)
    if len(begins):
        no_question = ~np.maximum.reduceat(details.parts == 1, begins)
        errors |= dict.fromkeys(rows[no_question].tolist(), NO_QUESTION)
    return errors


def _merge(
    spans: Spans, places: NDArray[np.int32], documents: NDArray[np.int64], asked: Asked
) -> dict[int, list[_Answer]]:
    """The distinct answers of each row, in the order they are found: by window, then by falling score."""
    contexts = asked.sequences.second or []
    answers: dict[int, dict[str, _Answer]] = {row: {} for row in asked.document_rows[documents].tolist()}
    owners = asked.tokens.sequences[documents][spans.windows]
    starts, ends = places[spans.first, 0], places[spans.last, 1]
    columns = (owners, asked.sequences.rows[owners], starts, ends, spans.scores)
    for sequence, row, start, end, score in zip(*(column.tolist() for column in columns), strict=True):
        text = contexts[sequence][start:end]
        found = answers[row].get(key := text.lower())
        if found is None:
            answers[row][key] = _Answer(text, start, end, score)
        else:
            found.score += score
    return {row: list(found.values()) for row, found in answers.items()}


def _least_likely(no_answer: NDArray[np.float64], rows: NDArray[np.int64]) -> Iterator[tuple[int, float]]:
    """Each row with how likely "no answer" is in the window where it is least so."""
    distinct, first = np.unique(rows, return_index=True)
    yield from zip(distinct.tolist(), np.minimum.reduceat(no_answer, first).tolist(), strict=True)


def _column(lists: Sequence[Sequence[_Answer]]) -> pa.Array:
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    flat = [answer for answers in lists for answer in answers]
    items = pa.StructArray.from_arrays(
        [
            pa.array([answer.text for answer in flat], pa.string()),
            pa.array([answer.score for answer in flat], pa.float32()),
            pa.array([answer.start for answer in flat], pa.int32()),
            pa.array([answer.end for answer in flat], pa.int32()),
        ],
        fields=list(schema.answers_type().value_type),
    )
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=schema.answers_type())
