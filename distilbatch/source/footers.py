"""Reads one Parquet footer without trusting it: identity, row groups, column types, and sanity limits.

No page is read here. A footer that passes can still lead to damaged pages; the reader deals with those.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from distilbatch.errors import FileError
from distilbatch.fingerprint import FOOTER_BYTES, sha256_bytes
from distilbatch.records import Fragment, Partition
from distilbatch.source.faults import reading
from distilbatch.source.schemas import is_text, plain_field_type

MAX_ROW_GROUP_BYTES = 4 << 30  # of the columns that are read, uncompressed
MAX_COMPRESSION_RATIO = 1000
# Below this size a ratio proves nothing: a constant column of a million rows compresses 10 000 times.
RATIO_FLOOR_BYTES = 16 << 20
MAX_ROW_GROUP_ROWS = (1 << 31) - 1
THRIFT_STRING_BYTES = 64 << 20
THRIFT_CONTAINER_ITEMS = 1_000_000
_MAGIC = b"PAR1"
_ENCRYPTED_MAGIC = b"PARE"
_MIN_FILE_BYTES = 12  # magic, footer length, magic
_SHOWN_COLUMNS = 20


@dataclass(frozen=True, slots=True)
class Footer:
    """What listing needs of one file.

    Args:
        fragment: The file and its identity.
        types: Plain types of the wanted columns this file has; partition keys are strings.
        missing: Wanted columns it lacks.
        columns: All its columns, kept only where one is missing.
    """

    fragment: Fragment
    types: dict[str, pa.DataType]
    missing: tuple[str, ...]
    columns: tuple[str, ...]


def read_source_footer(
    file_path: Path, path: str, *, partition: Partition, text_column: str, columns: Sequence[str]
) -> Footer:
    """Read and check the footer of one source file.

    Args:
        file_path: Where the file is.
        path: Its name relative to the source's root.
        partition: Hive keys and values of its path; they win over columns of the same name.
        text_column: The documents' column; has to be in the file.
        columns: Other columns that are wanted.

    Raises:
        FileError: The file cannot be used; ``found`` says why.
    """
    # All of it inside: a damaged footer can also fail when its names are decoded, long after it was parsed.
    with reading(path, opening=True), pa.OSFile(str(file_path)) as file:
        size, digest = identity(file)
        _check_frame(path, file, size)
        parquet = open_parquet(file)
        metadata, schema = parquet.metadata, parquet.schema_arrow
        leaves = column_leaves(path, schema, metadata.num_columns)
        partition_keys = {key for key, _ in partition}
        column_types: dict[str, pa.DataType] = {}
        for name in dict.fromkeys([text_column, *columns]):
            if name in partition_keys:
                column_types[name] = pa.string()
            elif name in leaves:
                column_types[name] = plain_field_type(path, schema.field(_only_index(path, schema, name)))
        if not schema.names and not metadata.num_rows:  # a pandas frame that was made of an empty list
            return Footer(Fragment(path, size, digest, 0, (), (), partition), column_types, tuple(columns), ())
        _check_text(path, text_column, column_types, schema.names)
        in_file = [name for name in column_types if name in leaves and name not in partition_keys]
        probe_chunks(metadata, in_file, size=size)
        read = [leaf for name in in_file for leaf in leaves[name]]
        row_groups, text_bytes = _check_row_groups(path, metadata, size=size, read=read, text=leaves[text_column][0])
        num_rows = int(metadata.num_rows)
    missing = tuple(name for name in columns if name not in column_types)
    fragment = Fragment(path, size, digest, num_rows, row_groups, text_bytes, partition)
    return Footer(fragment, column_types, missing, tuple(schema.names) if missing else ())


def identity(file: pa.NativeFile) -> tuple[int, str]:
    """Return size and digest of the last 64 KiB of an open file: together, which file it is."""
    size = int(file.size())
    file.seek(max(0, size - FOOTER_BYTES))
    return size, sha256_bytes(file.read(FOOTER_BYTES))


def open_parquet(file: pa.NativeFile, **options: Any) -> pq.ParquetFile:  # noqa: ANN401 - what ParquetFile takes
    """Open a file under the thrift limits; ``schema_arrow`` has the types that its columns are read as.

    INT96 timestamps, which Spark writes, are read as microseconds, Spark's own unit, and what is finer is cut off:
    in 64 bits of nanoseconds, Arrow's default, all before 1677 and after 2262 would silently become other dates.

    Args:
        file: The file.
        options: More of ``pq.ParquetFile``.
    """
    return pq.ParquetFile(
        file,
        pre_buffer=False,
        coerce_int96_timestamp_unit="us",
        thrift_string_size_limit=THRIFT_STRING_BYTES,
        thrift_container_size_limit=THRIFT_CONTAINER_ITEMS,
        **options,
    )


class _PagesWithheldError(OSError):
    """The probe below reached the pages, so the footer was sound."""


class _FooterOnly(io.RawIOBase):
    """Has the size of a file and none of its bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        raise _PagesWithheldError(f"{size} bytes")


def probe_chunks(metadata: pq.FileMetaData, columns: Sequence[str], *, size: int) -> None:
    """Make Arrow look at every column chunk of a footer where its exceptions are caught.

    ``RowGroupMetaData.column`` lets a C++ exception through, which ends the process: one flipped bit in a footer
    would end the run. Planning which bytes to read visits the same chunks, with every exception translated; it
    gets a file without bytes, so nothing is read.

    Args:
        metadata: The parsed footer.
        columns: Top-level columns whose chunks will be asked for.
        size: Size of the file in bytes.

    Raises:
        OSError: A chunk is damaged.
    """
    groups = range(metadata.num_row_groups)
    parquet = pq.ParquetFile(_FooterOnly(size), metadata=metadata, pre_buffer=True)
    with suppress(_PagesWithheldError):
        next(parquet.iter_batches(batch_size=1, row_groups=groups, columns=columns, use_threads=False), None)


def column_leaves(path: str, schema: pa.Schema, num_leaves: int) -> dict[str, range]:
    """Map each top-level column to its range of leaf columns, which is how footers count.

    Args:
        path: The file, for the message.
        schema: Its Arrow schema.
        num_leaves: Leaf columns of its footer.

    Raises:
        FileError: Schema and footer do not agree.
    """
    leaves: dict[str, range] = {}
    start = 0
    for field in schema:
        stop = start + _num_leaves(field.type)
        leaves[field.name] = range(start, stop)
        start = stop
    if start != num_leaves:
        raise FileError(path, found=f"a footer of {num_leaves} leaf columns whose schema has {start}")
    return leaves


def _num_leaves(data_type: pa.DataType) -> int:
    if isinstance(data_type, pa.BaseExtensionType):
        return _num_leaves(data_type.storage_type)
    if types.is_dictionary(data_type) or data_type.num_fields == 0:
        return 1
    return sum(_num_leaves(data_type.field(i).type) for i in range(data_type.num_fields))


def _check_frame(path: str, file: pa.NativeFile, size: int) -> None:
    if size == 0:
        raise FileError(path, found="an empty file of 0 bytes")
    file.seek(0)
    head = file.read(len(_MAGIC))
    if head == _ENCRYPTED_MAGIC:
        raise FileError(path, found="an encrypted Parquet file")
    if head != _MAGIC:
        raise FileError(path, found="not a Parquet file: it does not start with PAR1")
    file.seek(max(0, size - 8))
    tail = file.read(8)
    if size < _MIN_FILE_BYTES or tail[-4:] != _MAGIC:
        raise FileError(path, found="a truncated Parquet file: it does not end with PAR1")
    if int.from_bytes(tail[:4], "little") > size - _MIN_FILE_BYTES:
        raise FileError(path, found="a truncated Parquet file: its footer is longer than the file")


def _only_index(path: str, schema: pa.Schema, name: str) -> int:
    indices = schema.get_all_field_indices(name)
    if len(indices) != 1:
        raise FileError(path, found=f"{len(indices)} columns named {name!r}")
    return int(indices[0])


def _check_text(path: str, text_column: str, column_types: dict[str, pa.DataType], names: list[str]) -> None:
    if text_column not in column_types:
        raise FileError(path, found=f"no column {text_column!r}{describe_columns(text_column, names)}")
    # pandas writes the null type where a frame has no rows, or no text in any of them.
    if not is_text(column_types[text_column]) and not types.is_null(column_types[text_column]):
        raise FileError(
            path,
            found=f"column {text_column!r} has type {column_types[text_column]}, expected string or binary",
        )


def describe_columns(name: str, columns: Sequence[str]) -> str:
    """Say which columns there are and which one may have been meant."""
    by_lower = {column.lower(): column for column in reversed(columns)}
    near = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    nearest = f"; the nearest is {by_lower[near[0]]!r}" if near else ""
    shown = ", ".join(columns[:_SHOWN_COLUMNS])
    more = f" and {len(columns) - _SHOWN_COLUMNS} more" if len(columns) > _SHOWN_COLUMNS else ""
    return f"{nearest}; columns: {shown}{more}" if columns else "; the file has no columns"


def _check_row_groups(
    path: str, metadata: pq.FileMetaData, *, size: int, read: Sequence[int], text: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rows: list[int] = []
    text_bytes: list[int] = []
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        where = f"row group {index}"
        if not 0 <= group.num_rows <= MAX_ROW_GROUP_ROWS:
            raise FileError(path, found=f"{where} claims {group.num_rows} rows")
        chunks = [group.column(leaf) for leaf in read]
        for chunk in chunks:
            _check_chunk(path, where, chunk, size=size)
        text_chunk = group.column(text)
        if text_chunk.num_values != group.num_rows:
            raise FileError(path, found=f"{where} has {text_chunk.num_values} texts for {group.num_rows} rows")
        total = sum(chunk.total_uncompressed_size for chunk in chunks)
        if total > MAX_ROW_GROUP_BYTES:
            raise FileError(path, found=f"{where} of {total} bytes, over {MAX_ROW_GROUP_BYTES}")
        rows.append(group.num_rows)
        text_bytes.append(text_chunk.total_uncompressed_size)
    if sum(rows) != metadata.num_rows:
        raise FileError(path, found=f"row groups of {sum(rows)} rows in a file of {metadata.num_rows}")
    return tuple(rows), tuple(text_bytes)


def _check_chunk(path: str, where: str, chunk: pq.ColumnChunkMetaData, *, size: int) -> None:
    compressed, uncompressed = chunk.total_compressed_size, chunk.total_uncompressed_size
    first_page = chunk.dictionary_page_offset if chunk.has_dictionary_page else None
    start = chunk.data_page_offset if first_page is None else min(first_page, chunk.data_page_offset)
    column = f"{where}, column {chunk.path_in_schema!r}"
    if compressed < 0 or uncompressed < 0 or start < 0 or start + compressed > size:
        raise FileError(path, found=f"{column} lies outside of the file")
    if uncompressed > RATIO_FLOOR_BYTES and uncompressed > MAX_COMPRESSION_RATIO * compressed:
        raise FileError(
            path, found=f"{column} would grow from {compressed} to {uncompressed} bytes, more than 1000 times"
        )
