"""Splits a record batch by partition values; rows keep their order inside each part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyarrow import types

from distilbatch.errors import ConfigError, DataError
from distilbatch.layout import partition_segment
from distilbatch.oserrors import MAX_NAME_BYTES
from distilbatch.records import Partition

_EXACT = (
    types.is_string,
    types.is_large_string,
    types.is_integer,
    types.is_boolean,
    types.is_date,
    types.is_timestamp,
    types.is_decimal,
    types.is_null,
)


def check_partition_types(schema: pa.Schema, partition_by: Sequence[str]) -> None:
    """Refuse partition columns that are missing or have no exact, short text form.

    Args:
        schema: Schema of the rows.
        partition_by: Names of the partition columns.

    Raises:
        ConfigError: A column is missing, occurs twice, is a float, bytes or nested column, or has a name too long for
            a folder's; or none would be left.
    """
    for name in partition_by:
        if len(schema.get_all_field_indices(name)) != 1 or partition_by.count(name) != 1:
            raise ConfigError(
                f"partition column {name!r}", expected="one output column", found=f"columns {', '.join(schema.names)}"
            )
        kind = _value_type(schema.field(name).type)
        if not any(accepts(kind) for accepts in _EXACT):
            raise ConfigError(
                f"partition column {name!r}", expected="text, whole numbers, booleans or dates", found=f"type {kind}"
            )
        _check_lengths(((name, ""),))  # else no worker would find that out before it has computed rows
    if partition_by and len(partition_by) == len(schema.names):
        raise ConfigError("partition_by", expected="at least one column left for the files", found="all columns")


def split(batch: pa.RecordBatch, partition_by: Sequence[str]) -> Iterator[tuple[Partition, pa.RecordBatch]]:
    """Yield partition values and their rows without the partition columns, in first-seen order.

    Args:
        batch: Rows, at least one.
        partition_by: Partition columns, checked before; may be empty.

    Raises:
        ConfigError: A value is too long for a folder name.
        DataError: A value is not UTF-8.
    """
    rest = batch.drop_columns(list(partition_by)) if partition_by else batch
    if not partition_by:
        yield (), rest
        return
    codes = np.zeros(batch.num_rows, np.int64)
    values: list[list[str | None]] = []
    for name in partition_by:
        column_codes, column_values = _encode(name, batch.column(name))
        # Renumbered after every column, so that many columns of many values cannot overflow.
        codes = np.unique(codes * len(column_values) + column_codes, return_inverse=True)[1]
        values.append([column_values[code] for code in column_codes])
    first_rows = np.unique(codes, return_index=True)[1]
    for row in np.sort(first_rows):
        partition = tuple((name, column[row]) for name, column in zip(partition_by, values, strict=True))
        _check_lengths(partition)
        rows = np.flatnonzero(codes == codes[row])
        yield partition, rest if len(rows) == batch.num_rows else rest.take(pa.array(rows))


def _encode(name: str, array: pa.Array) -> tuple[list[int], list[str | None]]:
    plain = array.dictionary_decode() if types.is_dictionary(array.type) else array
    encoded = plain.cast(pa.string()).dictionary_encode(null_encoding="encode")
    try:
        return encoded.indices.to_pylist(), encoded.dictionary.to_pylist()
    except UnicodeDecodeError as exc:
        raise DataError(f"partition column {name!r}", expected="UTF-8 text", found="other bytes") from exc


def _check_lengths(partition: Partition) -> None:
    for name, value in partition:
        segment_bytes = len(partition_segment(name, value).encode())
        if segment_bytes > MAX_NAME_BYTES:
            raise ConfigError(
                f"partition column {name!r}",
                expected=f"values whose folder name has at most {MAX_NAME_BYTES} bytes",
                found=f"a value that needs {segment_bytes}",
                remedy="partition by a column with a shorter name and shorter values",
            )


def _value_type(data_type: pa.DataType) -> pa.DataType:
    return data_type.value_type if types.is_dictionary(data_type) else data_type
