"""Where to cut a record batch so that no piece is larger than a number of bytes; pure functions on arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from distilbatch.errors import FileError
from distilbatch.source.schemas import is_text


def row_bytes(path: str, array: pa.Array) -> NDArray[np.int64]:
    """Return ``(B,)`` int64, the bytes of each value of a text column; zeros for other types and for nulls.

    Args:
        path: The file, for the message.
        array: A column as it was read; dictionaries are measured without decoding them.

    Raises:
        FileError: An index points outside of its dictionary.
    """
    if types.is_dictionary(array.type) and is_text(array.type.value_type):
        values = pc.binary_length(array.dictionary).fill_null(0).to_numpy(zero_copy_only=False)
        indices = array.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        present = array.indices.is_valid().to_numpy(zero_copy_only=False)
        used = indices[present]
        if len(used) and not 0 <= int(used.min()) <= int(used.max()) < len(values):
            raise FileError(path, found="an index outside of its dictionary")
        lengths = np.zeros(len(array), np.int64)
        lengths[present] = values[used]
        return lengths
    if is_text(array.type):
        return np.asarray(pc.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False), np.int64)
    return np.zeros(len(array), np.int64)


def cuts(value_bytes: NDArray[np.int64], *, max_bytes: int) -> Iterator[int]:
    """Yield where to end each slice so that none is over ``max_bytes``, except single rows.

    Args:
        value_bytes: ``(B,)`` bytes of each row.
        max_bytes: Most bytes of a slice of more than one row.
    """
    ends = np.cumsum(value_bytes)
    start, before = 0, 0
    while start < len(ends):
        stop = max(start + 1, int(np.searchsorted(ends, before + max_bytes, side="right")))
        yield stop
        start, before = stop, int(ends[stop - 1])
