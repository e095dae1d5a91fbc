"""Columns of a source's batch on their way through a worker: hidden from heads, and passed through to the output."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from distilbatch.errors import ConfigError
from distilbatch.sink.utf8 import valid_utf8
from distilbatch.source.schemas import plain_array


def replace_rows(batch: pa.RecordBatch, name: str, rows: pa.BooleanArray, values: pa.Array | None) -> pa.RecordBatch:
    """Put other values, or nulls, into some rows of a column; values of another type leave it as it is.

    Args:
        batch: B rows.
        name: One of its columns.
        rows: ``(B,)`` which rows to replace.
        values: B values to take; None for nulls.
    """
    if not rows.true_count:
        return batch
    column = plain_array(batch.column(name))  # Arrow does not choose between views, which a hook may return
    if values is not None and values.type != column.type:
        return batch
    filled = pc.if_else(rows, pa.scalar(None, column.type) if values is None else values, column)
    return batch.set_column(batch.schema.get_field_index(name), pa.field(name, filled.type), filled)


def passthrough_column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    """Return a column as the output has it: of the planned type, all text in it valid UTF-8.

    Raises:
        ConfigError: The ``before`` hook dropped the column or changed its type.
    """
    index = batch.schema.get_field_index(field.name)
    column = batch.column(index) if index >= 0 else None
    if column is not None and column.type != field.type:
        column = plain_array(column)
    if column is None or column.type != field.type:
        raise ConfigError(
            f"pipeline hook 'before', passthrough column {field.name!r}",
            expected=str(field.type),
            found="no such column" if column is None else str(column.type),
        )
    return valid_utf8(column)
