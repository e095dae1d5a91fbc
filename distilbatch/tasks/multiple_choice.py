"""Multiple choice: which of a row's choices continues its prompt best.

The head and the softmax over the choices are those of the reference's ``DistilBertForMultipleChoice``; there is no
Hugging Face pipeline of this name. A long prompt may be read in text windows, the same for all choices: each window is
scored like a prompt of its own, and the scores are reduced.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from typing_extensions import override

from distilbatch import schema
from distilbatch.records import Decoded, HeadOutput, Sequences
from distilbatch.tasks.base import NOT_FINITE, Asked, Inputs, Task, failed_rows, scatter, unread_sequences
from distilbatch.tasks.text_windows import REDUCTIONS, check_choice, reduce_windows, window_order, window_weights

MIN_CHOICES = 2


@dataclass(frozen=True, slots=True)
class MultipleChoiceOptions:
    """What a user may choose.

    Args:
        reduction: How the scores of a prompt's windows become one: mean, max (choice by choice), length_weighted
            (mean by tokens, those of the choice left out) or first.
    """

    reduction: str = "mean"


class MultipleChoiceTask(Task):
    """``struct<choice, score, scores>``: the index of the best choice, its score, and the scores of all in order.

    Args:
        options: The user's choices.

    Raises:
        ConfigError: The reduction is unknown.
    """

    def __init__(self, options: MultipleChoiceOptions | None = None) -> None:
        self._reduction = (options or MultipleChoiceOptions()).reduction
        check_choice("reduction", self._reduction, REDUCTIONS)

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
        whole = np.flatnonzero(~np.isin(asked.document_rows[output.positions], list(errors)))
        if not len(whole):
            return Decoded(pa.nulls(asked.num_rows, self.type), errors)
        scores = self._scores(output.values[whole, 0], output.positions[whole], asked)
        sequences = np.unique(asked.tokens.sequences[output.positions[whole]])
        rows, first = np.unique(asked.sequences.rows[sequences], return_index=True)
        edges = [*first.tolist(), len(scores)]
        best = np.array([int(scores[start:end].argmax()) for start, end in pairwise(edges)])
        finite = np.logical_and.reduceat(np.isfinite(scores), first)
        lists = pa.ListArray.from_arrays(pa.array(edges, pa.int32()), pa.array(scores, pa.float32()))
        columns = [pa.array(best, pa.int32()), pa.array(scores[first + best], pa.float32()), lists]
        values = pa.StructArray.from_arrays(columns, fields=list(self.type)).filter(pa.array(finite))
        errors |= dict.fromkeys(rows[~finite].tolist(), NOT_FINITE)
        return Decoded(scatter(values, rows[finite], num_rows=asked.num_rows), errors)

    def _scores(self, logits: NDArray[np.float32], documents: NDArray[np.int64], asked: Asked) -> NDArray[np.float32]:
        """Map ``(P,)`` logits of documents to ``(M,)`` scores of choices, by sequence."""
        order = window_order(documents, asked)  # the choices beside each window
        owners = np.stack([asked.document_rows[documents], asked.tokens.windows[documents]])[:, order]
        first = np.flatnonzero(np.diff(owners, axis=1, prepend=-1).any(axis=0))
        scores = np.empty_like(logits)
        scores[order] = _softmax(logits[order], first)
        _, first = np.unique(asked.tokens.sequences[documents], return_index=True)
        weights = window_weights(documents, asked)
        return reduce_windows(scores[:, None], first, weights, self._reduction)[:, 0]


def _softmax(values: NDArray[np.float32], first: NDArray[np.int64]) -> NDArray[np.float32]:
    """Softmax over each group of values; groups begin at ``first``."""
    counts = np.diff([*first, len(values)])
    with np.errstate(invalid="ignore"):  # an infinite logit gives NaN, which callers look for
        shifted: NDArray[np.float32] = np.exp(values - np.repeat(np.maximum.reduceat(values, first), counts))
    shifted /= np.repeat(np.add.reduceat(shifted, first), counts)
    return shifted


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
