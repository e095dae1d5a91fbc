"""Reads the rows of one shard in bounded record batches; nothing is kept between shards.

Rows in are rows out: a row group that cannot be read either ends the shard or becomes that many error rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distilbatch.errors import ConfigError, ConflictError, DataError, FileError
from distilbatch.records import Fragment, SourceBatch
from distilbatch.source.faults import reading
from distilbatch.source.footers import column_leaves, identity, open_parquet, probe_chunks
from distilbatch.source.schemas import is_text, plain_array
from distilbatch.source.slices import cuts, row_bytes

FAIL = "fail"
ERROR_ROWS = "error-rows"
DEFAULT_BATCH_ROWS = 4096
MAX_BATCH_BYTES = 32 << 20  # of text and bytes columns together, for each batch of more than one row
_ATTEMPTS = 2  # a second reading helps against a network file system, not against a damaged page
_READ_BUFFER_BYTES = 1 << 20
_DICTIONARY_ENCODINGS = frozenset({"PLAIN_DICTIONARY", "RLE_DICTIONARY"})
# Arrow can hand these out as dictionaries; the delta encodings it cannot.
_DICTIONARY_SAFE_ENCODINGS = _DICTIONARY_ENCODINGS | {"PLAIN", "RLE", "BIT_PACKED"}


def read_shard(  # noqa: PLR0913 - five of them describe one range of one fragment
    root: Path,
    fragment: Fragment,
    row_start: int,
    row_stop: int,
    *,
    schema: pa.Schema,
    text_column: str,
    batch_rows: int = DEFAULT_BATCH_ROWS,
    on_bad_rows: str = FAIL,
) -> Iterator[SourceBatch]:
    """Yield the rows ``[row_start, row_stop)`` of a fragment in order, each exactly once.

    Replayable from any row offset: the rows depend on the file and the range only, never on earlier calls.
    How they are cut into batches may differ between calls. The file is identified by size and footer before
    the first row and after the last, on the handle that is read.

    Args:
        root: The source as it was listed: a folder, or one file.
        fragment: The file as it was planned.
        row_start: First row of the file to read.
        row_stop: One past the last row.
        schema: Columns and types to return; a column the file lacks is null, partition keys come from the path.
        text_column: The documents' column of ``schema``.
        batch_rows: Most rows of a batch; batches are shorter where rows are long.
        on_bad_rows: ``fail``, or ``error-rows``: rows that cannot be read are null and carry the error.

    Raises:
        ConfigError: ``on_bad_rows`` has no such value, or ``schema`` lacks the text column.
        ConflictError: The file is not the one that was planned, or is gone.
        DataError: A row group cannot be read and ``on_bad_rows`` is ``fail``.
        ValueError: The range is not inside the fragment, or ``batch_rows`` is not positive.
    """
    if on_bad_rows not in (FAIL, ERROR_ROWS):
        raise ConfigError("on_bad_rows", expected=f"{FAIL!r} or {ERROR_ROWS!r}", found=repr(on_bad_rows))
    if text_column not in schema.names:
        raise ConfigError(f"text column {text_column!r}", expected=f"one of {', '.join(schema.names)}")
    if not 0 <= row_start <= row_stop <= fragment.num_rows or batch_rows < 1:
        raise ValueError(
            f"{fragment.path}: expected a row range inside [0, {fragment.num_rows}) and at least 1 row a batch, "
            f"found [{row_start}, {row_stop}) and {batch_rows}"
        )
    path = root if root.is_file() else root / fragment.path
    return _read_range(_Source(path, fragment, schema), row_start, row_stop, batch_rows, on_bad_rows == ERROR_ROWS)


def _read_range(
    source: _Source, row_start: int, row_stop: int, batch_rows: int, error_rows: bool
) -> Iterator[SourceBatch]:
    with source:
        group_start = 0
        for group, group_rows in enumerate(source.fragment.row_groups):
            start, stop = max(row_start, group_start), min(row_stop, group_start + group_rows)
            if start < stop:
                rows = _GroupRows(group, group_start, start, stop)
                yield from _read_group(source, rows, batch_rows=batch_rows, error_rows=error_rows)
            group_start += group_rows
        try:
            source.check_identity()
        except FileError as exc:
            raise DataError(f"source file {source.fragment.path} cannot be read to its end", found=exc.found) from exc


@dataclass(frozen=True, slots=True)
class _GroupRows:
    """Rows ``[start, stop)`` of the file, all in row group ``group``, whose first row is ``group_start``."""

    group: int
    group_start: int
    start: int
    stop: int


def _read_group(source: _Source, rows: _GroupRows, *, batch_rows: int, error_rows: bool) -> Iterator[SourceBatch]:
    position = rows.start  # the next row to hand out
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            remaining = _GroupRows(rows.group, rows.group_start, position, rows.stop)
            for batch in source.batches(remaining, batch_rows):
                yield SourceBatch(batch, position)
                position += batch.num_rows
        except FileError as exc:
            fault = exc
            source.reopen()
        else:
            return
        if attempt == _ATTEMPTS:
            break
    where = f"row group {rows.group} of {source.fragment.path}"
    if not error_rows:
        raise DataError(
            f"{where} cannot be read",
            found=fault.found,
            remedy="repair or remove the file, or set on_bad_rows: error-rows to keep its rows as error rows",
        ) from fault
    for start in range(position, rows.stop, batch_rows):
        num_rows = min(batch_rows, rows.stop - start)
        nulls = [pa.nulls(num_rows, field.type) for field in source.schema]
        batch = pa.RecordBatch.from_arrays(nulls, schema=source.schema)
        yield SourceBatch(batch, start, error=f"{where} cannot be read: {fault.found}")


class _Source:
    """One open fragment."""

    def __init__(self, path: Path, fragment: Fragment, schema: pa.Schema) -> None:
        self.path = path
        self.fragment = fragment
        self.schema = schema
        self._partition = dict(fragment.partition)
        self._file: pa.NativeFile | None = None

    def __enter__(self) -> _Source:
        self.reopen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def reopen(self) -> None:
        """Open the file, check that it is the planned one, and parse its footer again."""
        if self._file is not None:
            self._file.close()
        fragment = self.fragment
        try:
            with reading(fragment.path):
                self._file = pa.OSFile(str(self.path))
                self.check_identity()
                parquet = open_parquet(self._file)
                metadata = parquet.metadata
                self._leaves = column_leaves(fragment.path, parquet.schema_arrow, metadata.num_columns)
                self._columns = [
                    name for name in self.schema.names if name in self._leaves and name not in self._partition
                ]
                probe_chunks(metadata, self._columns, size=fragment.size_bytes)
                self._parquet = open_parquet(
                    self._file,
                    metadata=metadata,
                    read_dictionary=self._dictionary_columns(metadata),
                    buffer_size=_READ_BUFFER_BYTES,
                    page_checksum_verification=True,
                )
        except FileError as exc:
            if isinstance(exc.__cause__, FileNotFoundError):
                raise self._conflict("no such file") from exc
            raise DataError(f"source file {fragment.path} cannot be opened", found=exc.found) from exc

    def check_identity(self) -> None:
        """Check that the open file is the one that was planned.

        Raises:
            ConflictError: It is another file.
            FileError: It cannot be read.
        """
        with reading(self.fragment.path):
            size, digest = identity(self._file)
        if (size, digest) != (self.fragment.size_bytes, self.fragment.footer_sha256):
            raise self._conflict(f"{size} bytes, footer {digest[:12]}")

    def _conflict(self, found: str) -> ConflictError:
        fragment = self.fragment
        return ConflictError(
            f"source file {fragment.path} changed after the run was planned",
            expected=f"{fragment.size_bytes} bytes, footer {fragment.footer_sha256[:12]}",
            found=found,
            remedy="put the planned file back, or start a new logical window",
        )

    def batches(self, rows: _GroupRows, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield ``rows`` in the wanted schema.

        Raises:
            FileError: The row group cannot be read, or ends early.
        """
        path, group = self.fragment.path, rows.group
        if not self._columns:
            raise FileError(path, found="none of the wanted columns")
        position = rows.group_start
        with reading(path):
            batches = self._parquet.iter_batches(
                batch_size=self._rows_per_read(group, batch_rows),
                row_groups=[group],
                columns=self._columns,
                use_threads=False,
            )
            for batch in batches:
                start, stop = max(rows.start - position, 0), min(rows.stop - position, batch.num_rows)
                position += batch.num_rows
                if start < stop:
                    yield from self._conform(batch.slice(start, stop - start))
                if position >= rows.stop:
                    return
        raise FileError(path, found=f"row group {group} ends {rows.stop - position} rows early")

    def _rows_per_read(self, group: int, batch_rows: int) -> int:
        chunks = self._parquet.metadata.row_group(group)
        leaves = [leaf for name in self._columns for leaf in self._leaves[name]]
        total = max(1, sum(int(chunks.column(leaf).total_uncompressed_size) for leaf in leaves))
        return max(1, min(batch_rows, MAX_BATCH_BYTES * self.fragment.row_groups[group] // total))

    def _dictionary_columns(self, metadata: pq.FileMetaData) -> list[str]:
        """Choose the text columns to read as dictionaries.

        A dictionary page of a few MiB may stand for any number of long texts. Read as a dictionary it stays
        small until each slice is decoded, so memory is bounded whatever the page says.
        """
        chosen = []
        for name in self._columns:
            leaves = self._leaves[name]
            if len(leaves) != 1 or not is_text(self.schema.field(name).type):
                continue
            chunks = [metadata.row_group(group).column(leaves[0]) for group in range(metadata.num_row_groups)]
            encodings = {encoding for chunk in chunks for encoding in chunk.encodings}
            is_bytes = all(chunk.physical_type == "BYTE_ARRAY" for chunk in chunks)
            if is_bytes and encodings & _DICTIONARY_ENCODINGS and encodings <= _DICTIONARY_SAFE_ENCODINGS:
                chosen.append(name)
        return chosen

    def _conform(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        in_file = {name: batch.column(name) for name in self._columns}
        value_bytes = np.zeros(batch.num_rows, np.int64)
        for array in in_file.values():
            value_bytes += row_bytes(self.fragment.path, array)
        start = 0
        for stop in cuts(value_bytes, max_bytes=MAX_BATCH_BYTES):
            arrays = [self._column(field, in_file.get(field.name), start, stop) for field in self.schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)
            start = stop

    def _column(self, field: pa.Field, array: pa.Array | None, start: int, stop: int) -> pa.Array:
        if array is None:
            value = self._partition.get(field.name)
            return pa.repeat(pa.scalar(value, field.type), stop - start)
        part = array.slice(start, stop - start)
        # Plans of earlier versions have list views, which nothing can be cast to.
        return part if part.type == field.type else plain_array(part).cast(field.type)
