"""Runs the hooks of a pipeline and holds them to their contract."""

from __future__ import annotations

import pyarrow as pa

from distilbatch.errors import ConfigError, DistilbatchError
from distilbatch.pipeline import Hook


def run_hook(name: str, hook: Hook | None, batch: pa.RecordBatch, *, must_have: str) -> pa.RecordBatch:
    """Call a hook on a batch.

    Args:
        name: ``before`` or ``after``, for messages.
        hook: The hook; None leaves the batch as it is.
        batch: What it gets.
        must_have: A column that has to be in what it returns.

    Raises:
        ConfigError: The hook raised, or returned something else than a batch with the same rows.
    """
    if hook is None:
        return batch
    try:
        result = hook(batch)
    except DistilbatchError:
        raise
    except Exception as error:
        raise ConfigError(
            f"pipeline hook {name!r} failed", found=f"{type(error).__name__}: {error}", remedy="fix the hook"
        ) from error
    if not isinstance(result, pa.RecordBatch):
        raise ConfigError(f"pipeline hook {name!r}", expected="a pyarrow.RecordBatch back", found=type(result).__name__)
    if result.num_rows != batch.num_rows:
        raise ConfigError(
            f"pipeline hook {name!r}",
            expected=f"{batch.num_rows} rows back, as it was given",
            found=f"{result.num_rows} rows",
            remedy="a hook may change values and columns, never the number or order of rows",
        )
    if must_have not in result.schema.names:
        raise ConfigError(f"pipeline hook {name!r}", expected=f"the column {must_have!r} back", found="no such column")
    return result
