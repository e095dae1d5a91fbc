"""Reads the rows of one shard in bounded record batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distilbatch.errors import ConfigError, ConflictError, DataError, FileError, StopError
from distilbatch.records import Fragment, SourceBatch
from distilbatch.source.faults import patiently, reading
from distilbatch.source.footers import column_leaves, identity, open_parquet, probe_chunks
from distilbatch.source.open_files import OpenFiles, RowGroupRows
from distilbatch.source.row_groups import GroupRows, read_range
from distilbatch.source.schemas import is_text, plain_array
from distilbatch.source.slices import cuts, row_bytes

FAIL = "fail"
ERROR_ROWS = "error-rows"
DEFAULT_BATCH_ROWS = 4096
MAX_BATCH_BYTES = 32 << 20  # of text and bytes columns together, for each batch of more than one row
# Arrow adds texts that are not in the file's dictionary to one that it keeps, and copies, to the end of the row group.
MAX_DICTIONARY_BYTES = 64 << 20
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
    files: OpenFiles | None = None,
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
        on_bad_rows: ``fail``, or ``error-rows``: rows that are damaged are null and carry the error.
        files: Where the file waits for the next shard; None closes it.

    Raises:
        ConfigError: ``on_bad_rows`` has no such value, or ``schema`` lacks the text column.
        ConflictError: The file is not the one that was planned, or is gone.
        DataError: A row group is damaged and ``on_bad_rows`` is ``fail``.
        ResourceError: Memory or file handles ran out, also after a while.
        SetupError: The storage did not answer, also after a while.
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
    source = _Source(path, fragment, schema)
    lent = (files or OpenFiles(keep=False)).lend(source, row_start=row_start)
    return _read(lent, row_start, row_stop, batch_rows=batch_rows, error_rows=on_bad_rows == ERROR_ROWS)


def _read(
    lent: AbstractContextManager[_Source], row_start: int, row_stop: int, *, batch_rows: int, error_rows: bool
) -> Iterator[SourceBatch]:
    with lent as source:
        yield from read_range(source, row_start, row_stop, batch_rows=batch_rows, error_rows=error_rows)


class _Source:
    """One open fragment."""

    def __init__(self, path: Path, fragment: Fragment, schema: pa.Schema) -> None:
        self.path = path
        self.fragment = fragment
        self.schema = schema
        self._partition = dict(fragment.partition)
        self._file: pa.NativeFile | None = None
        self._rows: RowGroupRows | None = None  # of the row group that is half read

    @property
    def next_row(self) -> int:
        """The row of the file that comes next; 0 where the next reading starts a row group."""
        return 0 if self._rows is None else self._rows.next_row

    def is_like(self, other: object) -> bool:
        """Whether the other one reads the same columns of the same file."""
        return isinstance(other, _Source) and (self.path, self.fragment, self.schema) == (
            other.path,
            other.fragment,
            other.schema,
        )

    def open(self) -> None:
        """Open the file; if it is, check that its name still stands for it."""
        patiently(self.reopen if self._file is None else self._check_name)

    def close(self) -> None:
        """Close the file."""
        self._rows = None
        if self._file is not None:
            self._file.close()

    def reopen(self) -> None:
        """Open the file, check that it is the planned one, and parse its footer again."""
        self.close()
        fragment = self.fragment
        try:
            with reading(fragment.path, opening=True):
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
            raise self._cannot_open(exc) from exc

    def _check_name(self) -> None:
        try:
            with reading(self.fragment.path, opening=True), pa.OSFile(str(self.path)) as file:
                self._check_planned(file)
        except FileError as exc:
            raise self._cannot_open(exc) from exc

    def _cannot_open(self, error: FileError) -> StopError:
        if isinstance(error.__cause__, FileNotFoundError):
            return self._conflict("no such file")
        return DataError(f"source file {self.fragment.path} cannot be opened", found=error.found)

    def check_identity(self) -> None:
        """Check that the open file is the one that was planned.

        Raises:
            ConflictError: It is another file.
            FileError: It cannot be read.
        """
        with reading(self.fragment.path):
            self._check_planned(self._file)

    def _check_planned(self, file: pa.NativeFile) -> None:
        size, digest = identity(file)
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

    def batches(self, rows: GroupRows, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield ``rows`` in the wanted schema.

        Raises:
            FileError: The row group cannot be read, or ends early.
        """
        path = self.fragment.path
        if not self._columns:
            raise FileError(path, found="none of the wanted columns")
        with reading(path):
            decoded = self._going_on(rows, batch_rows)
            while decoded.next_row < rows.stop:
                first = decoded.next_row
                batch = decoded.take(min(rows.stop, first + batch_rows))
                if batch is None:
                    raise FileError(path, found=f"row group {rows.group} ends {rows.stop - first} rows early")
                if decoded.next_row > rows.start:
                    yield from self._conform(batch.slice(max(rows.start - first, 0)))
        if rows.stop == rows.group_start + self.fragment.row_groups[rows.group]:
            self._rows = None  # and with it the last pages

    def _going_on(self, rows: GroupRows, batch_rows: int) -> RowGroupRows:
        if self._rows is None or self._rows.group != rows.group or self._rows.next_row > rows.start:
            batches = self._parquet.iter_batches(
                batch_size=self._rows_per_read(rows.group, batch_rows),
                row_groups=[rows.group],
                columns=self._columns,
                use_threads=False,
            )
            self._rows = RowGroupRows(rows.group, rows.group_start, batches)
        return self._rows

    def _rows_per_read(self, group: int, batch_rows: int) -> int:
        chunks = self._parquet.metadata.row_group(group)
        leaves = [leaf for name in self._columns for leaf in self._leaves[name]]
        total = max(1, sum(int(chunks.column(leaf).total_uncompressed_size) for leaf in leaves))
        return max(1, min(batch_rows, MAX_BATCH_BYTES * self.fragment.row_groups[group] // total))

    def _dictionary_columns(self, metadata: pq.FileMetaData) -> list[str]:
        """Choose the text columns to read as dictionaries.

        A dictionary page of a few MiB may stand for any number of long texts. Read as a dictionary it stays
        small until each slice is decoded, so memory is bounded whatever the page says. Writers give a dictionary up
        where texts hardly repeat: then all of them end up in memory, unless the column is read as it is.
        """
        chosen = []
        for name in self._columns:
            leaves = self._leaves[name]
            if len(leaves) != 1 or not is_text(self.schema.field(name).type):
                continue
            chunks = [metadata.row_group(group).column(leaves[0]) for group in range(metadata.num_row_groups)]
            encodings = {encoding for chunk in chunks for encoding in chunk.encodings}
            fits = all(
                chunk.physical_type == "BYTE_ARRAY" and chunk.total_uncompressed_size <= MAX_DICTIONARY_BYTES
                for chunk in chunks
            )
            if fits and encodings & _DICTIONARY_ENCODINGS and encodings <= _DICTIONARY_SAFE_ENCODINGS:
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
