"""Makes text columns valid UTF-8 before they are written: strict readers refuse a whole file for one bad byte."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import types


def valid_utf8(array: pa.Array) -> pa.Array:
    """Return an array with each broken sequence of its strings replaced by U+FFFD; itself where there is none.

    Args:
        array: Values of any type; strings inside lists and structs count. Arrow does not check what it reads.
    """
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return _repair(array)
    return array


def _repair(array: pa.Array) -> pa.Array:
    kind = array.type
    if types.is_string(kind) or types.is_large_string(kind):
        values = [value.as_buffer().to_pybytes() if value.is_valid else None for value in array]
        return pa.array([None if value is None else value.decode("utf-8", "replace") for value in values], kind)
    whole = array.take(pa.array(range(len(array)), pa.int64()))  # rid of a slice's offset, which constructors refuse
    if types.is_list(kind) or types.is_large_list(kind):
        items = _repair(whole.values)
        return type(whole).from_arrays(whole.offsets, items, type=kind, mask=whole.is_null())
    if types.is_struct(kind):
        children = [_repair(whole.field(index)) for index in range(kind.num_fields)]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=whole.is_null())
    return array
