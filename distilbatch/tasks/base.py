"""The contract of a task, and the scatter from documents back to rows."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilbatch.records import HeadOutput


class Task(Protocol):
    """Turns what a head computed into one output column."""

    @property
    def type(self) -> pa.DataType:
        """Arrow type of the column."""

    def decode(self, output: HeadOutput, *, num_rows: int) -> pa.Array:
        """Return ``num_rows`` values; rows without a document are null."""


def scatter(values: pa.Array, rows: NDArray[np.int64], *, num_rows: int) -> pa.Array:
    """Spread N values over B rows; the other rows become null.

    Args:
        values: N values.
        rows: ``(N,)`` row of each value.
        num_rows: B.
    """
    index = np.full(num_rows, -1, dtype=np.int64)
    index[rows] = np.arange(len(rows))
    return values.take(pa.array(index, mask=index < 0))
