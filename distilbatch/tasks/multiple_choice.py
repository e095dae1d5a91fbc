"""Multiple choice: which of a row's choices continues its prompt best.

The head and the softmax over the choices are those of the reference's ``DistilBertForMultipleChoice``; there is no
Hugging Face pipeline of this name.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pyarrow as pa
from typing_extensions import override

from distilbatch import schema
from distilbatch.records import Decoded, HeadOutput, Sequences
from distilbatch.tasks.base import NOT_FINITE, Asked, Inputs, Task, failed_rows, scatter, unread_sequences

MIN_CHOICES = 2


class MultipleChoiceTask(Task):
    """``struct<choice, score, scores>``: the index of the best choice, its score, and the scores of all in order."""

    @property
    @override
    def type(self) -> pa.DataType:
        return schema.choice_type()

    @property
    @override
    def sharing_key(self) -> Hashable:
        return ("prompt", "choices")

    @override
    def sequences(self, inputs: Inputs) -> Sequences:
        first: list[str] = []
        second: list[str] = []
        rows: list[int] = []
        errors: dict[int, str] = {}
        for row, (prompt, choices) in enumerate(zip(inputs["prompt"], inputs["choices"], strict=True)):
            if prompt is None:
                continue
            if problem := _problem(choices):
                errors[row] = problem
                continue
            for choice in choices or ():
                first.append(str(prompt))
                second.append(str(choice))
                rows.append(row)
        return Sequences(first, second, np.array(rows, dtype=np.int64), errors)

    @override
    def decode(self, output: HeadOutput, asked: Asked) -> Decoded:
        errors = failed_rows(output.positions, asked) | _unread(asked)
        owners = asked.document_rows[output.positions]
        whole = ~np.isin(owners, list(errors))
        rows, first = np.unique(owners[whole], return_index=True)
        if not len(rows):
            return Decoded(pa.nulls(asked.num_rows, self.type), errors)
        values = output.values[whole, 0]
        counts = np.diff([*first, len(values)])
        with np.errstate(invalid="ignore"):  # an infinite logit gives NaN, which is looked for below
            shifted = np.exp(values - np.repeat(np.maximum.reduceat(values, first), counts))
        scores = shifted / np.repeat(np.add.reduceat(shifted, first), counts)
        ends = [*first[1:].tolist(), len(scores)]
        best = np.array([int(scores[start:end].argmax()) for start, end in zip(first, ends, strict=True)])
        finite = np.logical_and.reduceat(np.isfinite(scores), first)
        lists = pa.ListArray.from_arrays(pa.array([*first, len(scores)], pa.int32()), pa.array(scores, pa.float32()))
        columns = [pa.array(best, pa.int32()), pa.array(scores[first + best], pa.float32()), lists]
        values_array = pa.StructArray.from_arrays(columns, fields=list(self.type)).filter(pa.array(finite))
        errors |= dict.fromkeys(rows[~finite].tolist(), NOT_FINITE)
        return Decoded(scatter(values_array, rows[finite], num_rows=asked.num_rows), errors)


def _unread(asked: Asked) -> dict[int, str]:
    """Rows with a choice that has no tokens."""
    rows = asked.sequences.rows
    unread = unread_sequences(asked)
    choices = unread - np.searchsorted(rows, rows[unread])
    return {
        row: f"choice {choice} has no tokens"
        for row, choice in zip(rows[unread].tolist(), choices.tolist(), strict=True)
    }


def _problem(choices: object) -> str:
    if choices is None:
        return "the choices are null"
    if not isinstance(choices, list) or len(choices) < MIN_CHOICES:
        return f"expected at least {MIN_CHOICES} choices, found {len(choices) if isinstance(choices, list) else 1}"
    if empty := [index for index, choice in enumerate(choices) if choice is None]:
        return f"choice {empty[0]} is null or empty"
    return ""
