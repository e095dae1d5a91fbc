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
    """Return ``(B,)`` int64, the bytes of each value, with all that is inside lists, maps and structs.

    Only what can differ from row to row has to be right: bits count as bytes, offsets and nulls as nothing.

    Args:
        path: The file, for the message.
        array: A column as it was read; dictionaries are measured without decoding them.

    Raises:
        FileError: An index points outside of its dictionary.
    """
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return row_bytes(path, array.storage)
    if types.is_dictionary(kind):
        return _dictionary_bytes(path, array)
    if is_text(kind):
        return np.asarray(pc.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False), np.int64)
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return _view_bytes(array)
    if types.is_struct(kind):
        members = [row_bytes(path, array.field(index)) for index in range(kind.num_fields)]
        return np.asarray(np.sum(members, axis=0), np.int64) if members else np.zeros(len(array), np.int64)
    if types.is_fixed_size_list(kind):
        inside = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        sizes = row_bytes(path, inside).reshape(len(array), kind.list_size)
        return np.asarray(sizes.sum(axis=1), np.int64)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        offsets = array.offsets.to_numpy().astype(np.int64)
        first, last = int(offsets[0]), int(offsets[-1])
        ends = np.concatenate([[0], np.cumsum(row_bytes(path, array.values.slice(first, last - first)))])
        return np.asarray(np.diff(ends[offsets - first]), np.int64)
    # Numbers are all as long; what else there may be, such as list views, is taken to be.
    return np.full(len(array), array.nbytes // max(1, len(array)), np.int64)


def _view_bytes(array: pa.Array) -> NDArray[np.int64]:
    """Lengths of views, for which Arrow has no kernel: each is 16 bytes that start with the length."""
    stop = array.offset + len(array)
    lengths = np.frombuffer(array.buffers()[1], np.int32).reshape(-1, 4)[array.offset : stop, 0].astype(np.int64)
    lengths[array.is_null().to_numpy(zero_copy_only=False)] = 0
    return lengths


def _dictionary_bytes(path: str, array: pa.DictionaryArray) -> NDArray[np.int64]:
    values = row_bytes(path, array.dictionary)
    indices = array.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    present = array.indices.is_valid().to_numpy(zero_copy_only=False)
    used = indices[present]
    if len(used) and not 0 <= int(used.min()) <= int(used.max()) < len(values):
        raise FileError(path, found="an index outside of its dictionary")
    sizes = np.zeros(len(array), np.int64)
    sizes[present] = values[used]
    return sizes


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
