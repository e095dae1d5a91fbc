"""A sort buffer before and after the models, and what became of each of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilbatch import schema
from distilbatch.engine.inputs import BufferTexts
from distilbatch.engine.questions import Question
from distilbatch.records import RowStatus


@dataclass(frozen=True, slots=True)
class TokenizedBuffer:
    """A sort buffer between tokenization and the model.

    Args:
        texts: The texts with the statuses of their rows.
        questions: What is asked, by sharing group.
    """

    texts: BufferTexts
    questions: tuple[Question, ...]

    @property
    def repeated(self) -> int:
        """Documents that are not computed because another one has the same tokens."""
        return sum(question.distinct.repeated for question in self.questions)


@dataclass(frozen=True, slots=True)
class AnnotatedBuffer:
    """The output columns of a sort buffer.

    Args:
        columns: One column of B values a head.
        statuses: B final statuses.
        errors: B messages; None where there is none.
        num_tokens: ``(B,)`` tokens read for the row, special tokens included: over all its windows, choices or
            labels, for the head that read most.
        num_windows: ``(B,)`` text windows that head read the row in; those that choices or labels share count once.
        truncated: ``(B,)`` whether text was cut off.
    """

    columns: tuple[pa.Array, ...]
    statuses: list[RowStatus]
    errors: list[str | None]
    num_tokens: NDArray[np.int32]
    num_windows: NDArray[np.int32]
    truncated: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What was read of each row; see :class:`AnnotatedBuffer`."""

    num_tokens: NDArray[np.int64]
    num_windows: NDArray[np.int64]
    truncated: NDArray[np.bool_]


def count_rows(buffer: TokenizedBuffer) -> RowCounts:
    """Count tokens and text windows of each row of a buffer."""
    num_rows = buffer.texts.num_rows
    num_tokens, num_windows = np.zeros(num_rows, dtype=np.int64), np.zeros(num_rows, dtype=np.int64)
    truncated = np.array([status is RowStatus.TRUNCATED for status in buffer.texts.statuses], dtype=np.bool_)
    for question in buffer.questions:
        rows = question.sequences.rows[question.tokens.sequences]
        tokens = np.bincount(rows, question.tokens.lengths, minlength=num_rows).astype(np.int64)
        windows = np.zeros(num_rows, dtype=np.int64)
        np.maximum.at(windows, rows, question.tokens.windows + 1)
        more = tokens > num_tokens
        num_tokens[more], num_windows[more] = tokens[more], windows[more]
        truncated[rows[question.tokens.truncated]] = True
    return RowCounts(num_tokens, num_windows, truncated)


def annotated_buffer(buffer: TokenizedBuffer, columns: Sequence[pa.Array], errors: dict[int, str]) -> AnnotatedBuffer:
    """Put the columns of a buffer beside what became of its rows; ``errors`` are those of decoding, by row."""
    texts = buffer.texts.with_errors(errors)
    counts = count_rows(buffer)
    statuses = list(texts.statuses)
    for row in np.flatnonzero(counts.num_tokens == 0).tolist():
        if statuses[row] not in {RowStatus.NULL, RowStatus.ERROR}:
            statuses[row] = RowStatus.EMPTY
    for row in np.flatnonzero(counts.truncated).tolist():
        if statuses[row] is RowStatus.OK:
            statuses[row] = RowStatus.TRUNCATED
    return AnnotatedBuffer(
        tuple(columns),
        statuses,
        texts.errors,
        counts.num_tokens.astype(np.int32),
        counts.num_windows.astype(np.int32),
        counts.truncated,
    )


def row_array(annotated: AnnotatedBuffer, *, source_file: str | None, source_rows: NDArray[np.int64]) -> pa.StructArray:
    """Build the ``_row`` column.

    Args:
        annotated: The buffer's results.
        source_file: The file the rows came from; None when there is none.
        source_rows: ``(B,)`` row of each in that file.
    """
    num_rows = len(annotated.statuses)
    return pa.StructArray.from_arrays(
        [
            pa.array([status.value for status in annotated.statuses], pa.string()),
            pa.array(annotated.errors, pa.string()),
            pa.array(annotated.num_tokens, pa.int32()),
            pa.array(annotated.num_windows, pa.int32()),
            pa.array(annotated.truncated, pa.bool_()),
            pa.array([source_file] * num_rows, pa.string()),
            pa.array(source_rows, pa.int64()),
        ],
        fields=list(schema.ROW_TYPE),
    )
