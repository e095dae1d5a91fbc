"""The contract of a task, and what tasks share: from documents back to rows, and windows back to documents."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilbatch.records import Decoded, HeadOutput, Sequences, TokenBatch

TextColumn = Sequence[str | None]
ChoicesColumn = Sequence[Sequence[str | None] | None]
Inputs = Mapping[str, TextColumn | ChoicesColumn]
"""The texts of a sort buffer by role (``text``, ``text_pair``, ``question``, ``context``, ``prompt``, ``choices``);
None where there is nothing to read. Every column has B entries."""

NOT_FINITE = "the model gave no finite value for this text (number format overflow)"
OUT_OF_MEMORY = "out of memory: this document does not fit even alone; lower max_length"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a head was asked: everything that decoding may look at besides the head's output.

    Args:
        inputs: The texts.
        sequences: The M sequences made of them.
        tokens: Their N documents (windows).
        num_rows: B.
    """

    inputs: Inputs
    sequences: Sequences
    tokens: TokenBatch
    num_rows: int

    @property
    def document_rows(self) -> NDArray[np.int64]:
        """``(N,)`` row of each document."""
        return self.sequences.rows[self.tokens.sequences]


class Task(Protocol):
    """Makes sequences of texts, and one output column of what a head computed for them."""

    @property
    def type(self) -> pa.DataType:
        """Arrow type of the column."""

    @property
    def sharing_key(self) -> Hashable:
        """Tasks with equal keys make equal sequences of equal inputs, so one tokenization serves them."""

    def sequences(self, inputs: Inputs) -> Sequences:
        """Say what to tokenize; rows that cannot be asked are errors, rows without text are simply left out."""

    def decode(self, output: HeadOutput, asked: Asked) -> Decoded:
        """Return B values; rows without a sequence are null."""


def single_texts(inputs: Inputs, role: str = "text") -> Sequences:
    """One sequence for each row that has a text."""
    texts = inputs[role]
    rows = [row for row, text in enumerate(texts) if text is not None]
    return Sequences(first=[str(texts[row]) for row in rows], second=None, rows=np.array(rows, dtype=np.int64))


def scatter(values: pa.Array, rows: NDArray[np.int64], *, num_rows: int) -> pa.Array:
    """Spread N values over B rows; the other rows become null.

    Args:
        values: N values.
        rows: ``(N,)`` row of each value, no row twice.
        num_rows: B.
    """
    index = np.full(num_rows, -1, dtype=np.int64)
    index[rows] = np.arange(len(rows))
    return values.take(pa.array(index, mask=index < 0))


def unread_sequences(asked: Asked) -> NDArray[np.int64]:
    """Sequences without a document although their main text has tokens: the other text of the pair has none."""
    known = np.concatenate([asked.tokens.sequences, asked.tokens.blank])
    return np.setdiff1d(np.arange(len(asked.sequences.rows)), known)


def failed_rows(output_documents: NDArray[np.int64], asked: Asked) -> dict[int, str]:
    """Rows of the documents that a head gave nothing for, with the reason.

    Args:
        output_documents: The documents it gave something for.
        asked: What it was asked.
    """
    missing = np.setdiff1d(np.arange(len(asked.tokens)), output_documents)
    return dict.fromkeys(asked.document_rows[missing].tolist(), OUT_OF_MEMORY)
