"""One Parquet file being staged: created exclusively, hashed as it is written, durable when finished."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from distilbatch.errors import ConfigError, DataError, SetupError
from distilbatch.oserrors import storing
from distilbatch.records import Partition, StagedFile
from distilbatch.schema import FOOTER_PREFIX

NUM_ROWS_KEY = "num_rows"
MAX_ROW_GROUP_BYTES = 64 << 20  # of buffered Arrow data; a row group is closed early when it gets there


@dataclass(frozen=True, slots=True)
class FileFormat:
    """How staged Parquet files are written.

    Args:
        compression: Codec name of Parquet, such as ``zstd``.
        compression_level: Level of the codec; None for its default.
        row_group_rows: Most rows of a row group.
    """

    compression: str
    compression_level: int | None
    row_group_rows: int


class _HashingFile(io.RawIOBase):
    """Hands bytes on to a file and hashes them, so that the checksum tells what was meant to be written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size_bytes = 0
        # Set on a file that is given up: closing its writer then writes to nowhere. Also set by the first error,
        # because the Parquet writer goes on after one and would write past a hole.
        self.dropping = False

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        if self.dropping:
            return len(data)
        try:
            self._file.write(data)
        except OSError:
            self.dropping = True
            raise
        self.digest.update(data)
        self.size_bytes += len(data)
        return len(data)


class OpenFile:
    """A staged file that still takes rows. ``finish`` makes it durable, ``discard`` removes it.

    Args:
        path: Where to create it; must not exist.
        partition: Partition values of all its rows.
        schema: Schema of the rows, without partition columns.
        file_format: How to write it.
    """

    def __init__(self, path: Path, partition: Partition, *, schema: pa.Schema, file_format: FileFormat) -> None:
        self.path = path
        self.partition = partition
        self.num_rows = 0
        self.buffered_bytes = 0
        self._buffered_rows = 0
        self._schema = schema
        self._format = file_format
        self._buffer: list[pa.RecordBatch] = []
        with storing("create", path):
            # O_EXCL: another attempt's file is never touched. O_NOFOLLOW: nor is whatever a planted link points to.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file: BinaryIO = os.fdopen(os.open(path, flags, 0o666), "wb")
        self._output = _HashingFile(self._file)
        try:
            with _writing(path):
                self._writer = self._open_writer()
        except BaseException:
            self._remove()
            raise

    def _open_writer(self) -> pq.ParquetWriter:
        return pq.ParquetWriter(
            self._output,
            self._schema,
            compression=self._format.compression,
            compression_level=self._format.compression_level,
            write_statistics=True,
            write_page_index=True,
            write_page_checksum=True,
            store_schema=True,
        )

    def write(self, batch: pa.RecordBatch) -> None:
        """Take rows; whole row groups go to the file as they fill."""
        self._buffer.append(batch)
        self._buffered_rows += batch.num_rows
        self.buffered_bytes += batch.nbytes
        self.num_rows += batch.num_rows
        whole = self._buffered_rows // self._format.row_group_rows * self._format.row_group_rows
        if self.buffered_bytes >= MAX_ROW_GROUP_BYTES:
            self.flush_rows(self._buffered_rows)
        elif whole:
            self.flush_rows(whole)

    def flush_rows(self, num_rows: int | None = None) -> None:
        """Write the first ``num_rows`` buffered rows as row groups; all of them when None."""
        if not self._buffered_rows:
            return
        table = pa.Table.from_batches(self._buffer, schema=self._schema)
        stop = self._buffered_rows if num_rows is None else num_rows
        with _writing(self.path):
            self._writer.write_table(table.slice(0, stop), row_group_size=self._format.row_group_rows)
        rest = table.slice(stop)
        self._buffer = rest.to_batches()
        self._buffered_rows = rest.num_rows
        self.buffered_bytes = rest.nbytes

    def finish(self, footer: Mapping[str, str]) -> StagedFile:
        """Write the footer, make the bytes durable, and check what reached the file.

        Args:
            footer: Values for the footer without ``FOOTER_PREFIX``; ``num_rows`` is added.

        Raises:
            ResourceError: The disk is full.
            SetupError: The file system failed, or the file is not what was written.
        """
        self.flush_rows()
        values = {**footer, NUM_ROWS_KEY: str(self.num_rows)}
        with _writing(self.path):
            self._writer.add_key_value_metadata({FOOTER_PREFIX + key: value for key, value in values.items()})
            self._writer.close()
            self._file.flush()
        with storing("fsync", self.path):
            # Not to be repeated after an error: the kernel may have dropped the pages it could not write.
            os.fsync(self._file.fileno())
            self._file.close()
        written = read_footer(self.path)
        with storing("stat", self.path):
            size_bytes = self.path.stat().st_size
        if written != values or size_bytes != self._output.size_bytes:
            raise SetupError(
                f"{self.path} is not what was written to it",
                expected=f"{self._output.size_bytes} bytes with footer {values}",
                found=f"{size_bytes} bytes with footer {written}",
            )
        digest = self._output.digest.hexdigest()
        return StagedFile(self.path.name, self.partition, self.num_rows, size_bytes, digest)

    def discard(self) -> None:
        """Close and remove the file without finishing it; a second call does nothing more."""
        self._buffer = []
        # A writer that is only dropped would write its footer when it is collected: a file that looks finished.
        self._output.dropping = True
        with suppress(OSError, pa.ArrowException):
            self._writer.close()
        self._remove()

    def _remove(self) -> None:
        with suppress(OSError):  # what is still buffered is meant for a disk that may be full
            self._file.close()
        with suppress(OSError):  # then an orphan stays; nothing refers to it
            self.path.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        with storing("write", path):
            yield
    except pa.ArrowException as exc:
        raise ConfigError(
            f"the output cannot be written as Parquet to {path.name}",
            expected="a codec, a level and column types that Parquet has",
            found=" ".join(str(exc).split()),
        ) from exc


def read_footer(path: Path) -> dict[str, str]:
    """Return what a staged or published file says about itself, keys without ``FOOTER_PREFIX``.

    Args:
        path: A Parquet file this library wrote.

    Raises:
        DataError: It is not a whole Parquet file, was not written by this library, or its rows are not the
            number its footer states.
    """
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as exc:
        raise DataError(f"{path} cannot be read", expected="a whole Parquet file", found=str(exc)) from exc
    values = {
        key.decode(errors="replace").removeprefix(FOOTER_PREFIX): value.decode(errors="replace")
        for key, value in (metadata.metadata or {}).items()
        if key.startswith(FOOTER_PREFIX.encode())
    }
    if values.get(NUM_ROWS_KEY) != str(metadata.num_rows):
        raise DataError(
            f"{path} does not have the rows its footer states",
            expected=f"{FOOTER_PREFIX}{NUM_ROWS_KEY}={metadata.num_rows}",
            found=repr(values.get(NUM_ROWS_KEY)),
        )
    return values
