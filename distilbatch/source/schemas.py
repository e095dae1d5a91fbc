"""Which Arrow types are accepted, and how the types of many files become one schema by widening."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from distilbatch.errors import DataError, FileError

EXTENSION_NAME = b"ARROW:extension:name"
# Built into Arrow, without a deserialiser that could run code: they are read as what they are stored as.
_PLAIN_EXTENSIONS = ("arrow.json", "arrow.uuid")

ColumnTypes = Mapping[str, pa.DataType]


def plain_field_type(path: str, field: pa.Field) -> pa.DataType:
    """Return the type a file's column is read as: its plain type (:func:`plain_type`).

    Args:
        path: The file, for the message.
        field: The column as the file's footer describes it.

    Raises:
        FileError: The column has an extension type.
    """
    name = (field.metadata or {}).get(EXTENSION_NAME, b"").decode(errors="replace")
    if name and name not in _PLAIN_EXTENSIONS:
        raise FileError(path, found=f"column {field.name!r} has the extension type {name!r}, expected a plain type")
    plain = plain_type(field.type)
    if name := _extension_name(plain):
        raise FileError(path, found=f"column {field.name!r} has the extension type {name!r}, expected a plain type")
    return plain


def plain_type(data_type: pa.DataType) -> pa.DataType:
    """Return a type without dictionaries, views and Arrow's own extension types; other extension types stay."""
    if types.is_list_view(data_type):
        return pa.list_(_plain(data_type.value_type))
    if types.is_large_list_view(data_type):
        return pa.large_list(_plain(data_type.value_type))
    return _plain(data_type)


def plain_array(array: pa.Array) -> pa.Array:
    """Return an array in its plain type.

    Raises:
        pa.ArrowException: It is damaged, such as by an index outside of its dictionary.
    """
    plain = plain_type(array.type)
    if array.type == plain:
        return array
    if isinstance(array, pa.ExtensionArray):
        return plain_array(array.storage)
    if types.is_dictionary(array.type):
        return pa.DictionaryArray.from_arrays(array.indices, plain_array(array.dictionary)).dictionary_decode()
    if types.is_list_view(array.type) or types.is_large_list_view(array.type):
        # Arrow's own cast leaves out the last offset.
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        large = types.is_large_list(plain)
        values, mask = plain_array(array.flatten()), array.is_null()
        kind, width = (pa.LargeListArray, pa.int64()) if large else (pa.ListArray, pa.int32())
        return kind.from_arrays(pa.array(offsets, width), values, mask=mask)
    return array.cast(plain)


def _plain(data_type: pa.DataType) -> pa.DataType:
    # A list view inside of something stays one, for Arrow cannot cast it where it is.
    if isinstance(data_type, pa.BaseExtensionType):
        known = data_type.extension_name in _PLAIN_EXTENSIONS
        return _plain(data_type.storage_type) if known else data_type
    if types.is_dictionary(data_type):
        return _plain(data_type.value_type)
    if data_type == pa.string_view():
        return pa.string()
    if data_type == pa.binary_view():
        return pa.binary()
    if types.is_struct(data_type):
        members = [data_type.field(i) for i in range(data_type.num_fields)]
        return pa.struct([pa.field(m.name, _plain(m.type), m.nullable) for m in members])
    if types.is_map(data_type):
        return pa.map_(_plain(data_type.key_type), _plain(data_type.item_type))
    if types.is_fixed_size_list(data_type):
        return pa.list_(_plain(data_type.value_type), data_type.list_size)
    if types.is_large_list(data_type):
        return pa.large_list(_plain(data_type.value_type))
    if types.is_list(data_type):
        return pa.list_(_plain(data_type.value_type))
    return data_type


def _extension_name(data_type: pa.DataType) -> str:
    if isinstance(data_type, pa.BaseExtensionType):
        return str(data_type.extension_name)
    inside = (_extension_name(data_type.field(index).type) for index in range(data_type.num_fields))
    return next(filter(None, inside), "")


def is_binary(data_type: pa.DataType) -> bool:
    """Say whether a type is binary or large_binary."""
    return bool(types.is_binary(data_type) or types.is_large_binary(data_type))


def is_large(data_type: pa.DataType) -> bool:
    """Say whether a type is large_string or large_binary."""
    return bool(types.is_large_string(data_type) or types.is_large_binary(data_type))


def is_text(data_type: pa.DataType) -> bool:
    """Say whether a plain type is text, or bytes that should be UTF-8."""
    return bool(types.is_string(data_type) or types.is_large_string(data_type) or is_binary(data_type))


def unify(files: Iterable[tuple[str, ColumnTypes]], *, text_column: str, columns: Iterable[str]) -> pa.Schema:
    """Widen the column types of all files into one schema: the text column first, then ``columns``.

    Bytes stay bytes, so text is binary as soon as one file has it as binary. A column without a value has the null
    type in its file, and takes the type of the others; text that is null in all of them is string. Every field may
    be null and carries no metadata.

    Args:
        files: Path and plain column types of each file, in plan order.
        text_column: The documents' column.
        columns: Other columns, in output order; those no file has must have been refused before.

    Raises:
        DataError: Two files have types that no widening reconciles.
    """
    order = list(dict.fromkeys([text_column, *columns]))
    seen: dict[str, dict[pa.DataType, str]] = {name: {} for name in order}
    for path, column_types in files:
        for name in order:
            if name in column_types:
                seen[name].setdefault(column_types[name], path)
    fields = [pa.field(name, _text(seen[name]) if name == text_column else _widest(name, seen[name])) for name in order]
    return pa.schema(fields)


def _text(seen: Iterable[pa.DataType]) -> pa.DataType:
    kinds = list(seen)
    if any(is_binary(kind) for kind in kinds):
        return pa.large_binary() if any(is_large(kind) for kind in kinds) else pa.binary()
    return pa.large_string() if any(is_large(kind) for kind in kinds) else pa.string()


def _widest(column: str, seen: Mapping[pa.DataType, str]) -> pa.DataType:
    widest: pa.DataType | None = None
    for data_type in seen:
        merged = data_type if widest is None else _merge(widest, data_type)
        if merged is None:
            other = next((t for t in seen if _merge(t, data_type) is None), widest)
            raise DataError(
                f"column {column!r} has types that do not go together",
                found=f"{other} in {seen.get(other, 'earlier files')}, {data_type} in {seen[data_type]}",
                remedy="write the files with one type, or leave the column out",
            )
        widest = merged
    return widest


def _merge(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    pair = [pa.schema([pa.field("c", _beside(mine, other))]) for mine, other in ((left, right), (right, left))]
    try:
        merged = pa.unify_schemas(pair, promote_options="permissive").field(0).type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return None
    return None if _loses_digits(left, merged) or _loses_digits(right, merged) else merged


def _beside(data_type: pa.DataType, other: pa.DataType) -> pa.DataType:
    """An integer beside a decimal as the decimal that holds all its values, for Arrow's own is a digit short."""
    if types.is_integer(data_type) and types.is_decimal(other):
        return pa.decimal128(_digits(data_type), 0)
    return data_type


def _digits(integer: pa.DataType) -> int:
    return len(str(1 << (integer.bit_width - types.is_signed_integer(integer))))


def _loses_digits(before: pa.DataType, after: pa.DataType) -> bool:
    """Whether Arrow would round decimals, which it does in silence, or has no room for integers, anywhere inside."""
    wide = dict(_leaves(after))
    for path, kind in _leaves(before):
        merged = wide.get(path, kind)
        if types.is_decimal(kind) and types.is_floating(merged):
            return True
        if types.is_integer(kind) and types.is_decimal(merged) and merged.precision - merged.scale < _digits(kind):
            return True
    return False


def _leaves(
    data_type: pa.DataType, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], pa.DataType]]:
    if data_type.num_fields == 0:
        yield path, data_type
    for index in range(data_type.num_fields):
        member = data_type.field(index)
        # Members of a struct go by name; what the items of a list are called differs from writer to writer.
        yield from _leaves(member.type, (*path, member.name if types.is_struct(data_type) else index))
