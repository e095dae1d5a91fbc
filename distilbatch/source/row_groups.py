"""Goes through the row groups of an open file: waits for storage that does not answer, and sets damage aside.

Rows in are rows out: a row group that is damaged either ends the shard or becomes that many error rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa

from distilbatch.errors import DataError, FileError, ResourceError, SetupError
from distilbatch.records import Fragment, SourceBatch
from distilbatch.source.faults import PAUSES_S, patiently


@dataclass(frozen=True, slots=True)
class GroupRows:
    """Rows ``[start, stop)`` of the file, all in row group ``group``, whose first row is ``group_start``."""

    group: int
    group_start: int
    start: int
    stop: int


class OpenFragment(Protocol):
    """A file whose row groups can be read."""

    fragment: Fragment
    schema: pa.Schema

    def reopen(self) -> None:
        """Start anew, whatever state the file is in."""

    def check_identity(self) -> None:
        """Check that it is the file that was planned."""

    def batches(self, rows: GroupRows, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield rows in batches of at most ``batch_rows``."""


def read_range(
    source: OpenFragment, row_start: int, row_stop: int, *, batch_rows: int, error_rows: bool
) -> Iterator[SourceBatch]:
    """Yield the rows ``[row_start, row_stop)`` of a file in order, each exactly once.

    Args:
        source: The file.
        row_start: First row.
        row_stop: One past the last row.
        batch_rows: Most rows of a batch.
        error_rows: Whether damaged rows are null and carry the error.

    Raises:
        ConflictError: The file is not the one that was planned, or is gone.
        DataError: Rows are damaged and ``error_rows`` is not set.
        ResourceError: Memory or file handles ran out, also after a while.
        SetupError: The storage did not answer, also after a while.
    """
    group_start = 0
    for group, group_rows in enumerate(source.fragment.row_groups):
        start, stop = max(row_start, group_start), min(row_stop, group_start + group_rows)
        if start < stop:
            rows = GroupRows(group, group_start, start, stop)
            yield from _read_group(source, rows, batch_rows=batch_rows, error_rows=error_rows)
        group_start += group_rows
    try:
        patiently(source.check_identity)
    except FileError as exc:
        raise DataError(f"source file {source.fragment.path} cannot be read to its end", found=exc.found) from exc


def _read_group(source: OpenFragment, rows: GroupRows, *, batch_rows: int, error_rows: bool) -> Iterator[SourceBatch]:
    fault: Exception | None = None
    for pause in PAUSES_S:
        try:
            if fault is not None:
                time.sleep(0 if isinstance(fault, FileError) else pause)
                source.reopen()
            for batch in source.batches(rows, batch_rows):
                yield SourceBatch(batch, rows.start)
                rows = replace(rows, start=rows.start + batch.num_rows)
        except (ResourceError, SetupError) as exc:
            if pause == PAUSES_S[-1]:
                raise
            fault = exc
        except FileError as exc:
            # A second reading helps against a network file system, not against a damaged page.
            if isinstance(fault, FileError) or pause == PAUSES_S[-1]:
                yield from _damaged(source, rows, exc, batch_rows=batch_rows, error_rows=error_rows)
                return
            fault = exc
        else:
            return


def _damaged(
    source: OpenFragment, rows: GroupRows, fault: FileError, *, batch_rows: int, error_rows: bool
) -> Iterator[SourceBatch]:
    where = f"row group {rows.group} of {source.fragment.path}"
    if not error_rows:
        raise DataError(
            f"{where} cannot be read",
            found=fault.found,
            remedy="repair or remove the file, or set on_bad_rows: error-rows to keep its rows as error rows",
        ) from fault
    patiently(source.reopen)
    for start in range(rows.start, rows.stop, batch_rows):
        num_rows = min(batch_rows, rows.stop - start)
        nulls = [pa.nulls(num_rows, field.type) for field in source.schema]
        batch = pa.RecordBatch.from_arrays(nulls, schema=source.schema)
        yield SourceBatch(batch, start, error=f"{where} cannot be read: {fault.found}")
