"""Stages the output of one attempt at a shard as Parquet: durable, checked, and not yet visible to readers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from distilbatch.errors import ConfigError, DataError
from distilbatch.oserrors import storing
from distilbatch.records import Partition, StagedFile
from distilbatch.sink.partitions import check_partition_types, split
from distilbatch.sink.staged_file import FileFormat, OpenFile, read_footer

__all__ = ["ParquetStager", "read_footer"]

MAX_BUFFERED_BYTES = 128 << 20  # of Arrow data over all open files


class ParquetStager:
    """Writes the rows of one attempt to one file for each partition.

    Guarantee: when ``close`` returns, every row written is in exactly one returned file, whose bytes survive power
    loss and whose footer was read back. Before that, and after any error, nothing it created is left behind or
    looks finished, unless the process dies: then its unfinished files stay, under names no other attempt uses.

    Use it in a ``with`` block and call ``close`` at its end; leaving the block without it, by an error or otherwise,
    discards everything. Files that ``close`` returned belong to the caller and are never removed here.

    Args:
        path_for: Path of the n-th file from 0; its folder exists and no such file does.
        partition_by: Columns that become folders; they are taken out of the files. May be empty.
        compression: Codec name of Parquet.
        compression_level: Level of the codec; None for its default.
        row_group_rows: Most rows of a row group.
        footer: Values for each file's footer, without ``schema.FOOTER_PREFIX``; ``num_rows`` is added.
        max_open_files: Most partitions of one shard.
    """

    def __init__(
        self,
        path_for: Callable[[int], Path],
        *,
        partition_by: Sequence[str] = (),
        compression: str = "zstd",
        compression_level: int | None = 3,
        row_group_rows: int = 16_384,
        footer: Mapping[str, str],
        max_open_files: int = 64,
    ) -> None:
        if row_group_rows < 1 or max_open_files < 1:
            raise ValueError(
                f"ParquetStager: expected row_group_rows and max_open_files of at least 1, "
                f"found {row_group_rows} and {max_open_files}"
            )
        self._path_for = path_for
        self._partition_by = tuple(partition_by)
        self._format = FileFormat(compression, compression_level, row_group_rows)
        self._footer = dict(footer)
        self._max_open_files = max_open_files
        self._schema: pa.Schema | None = None
        self._files: dict[Partition, OpenFile] = {}
        self._open = True

    def __enter__(self) -> ParquetStager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows.

        Args:
            batch: Rows of the schema of the first call; may be empty.

        Raises:
            ConfigError: The rows cannot be partitioned as asked, or into too many files.
            DataError: Another schema than before, or a partition value that is not UTF-8.
            ResourceError: The disk is full.
            SetupError: The file system failed.
            ValueError: The stager is closed or has failed.
        """
        self._check_open()
        try:
            self._check_schema(batch.schema)
            if batch.num_rows:
                for partition, rows in split(batch, self._partition_by):
                    self._file(partition, rows.schema).write(rows)
            self._bound_memory()
        except BaseException:
            self.discard()
            raise

    def close(self) -> tuple[StagedFile, ...]:
        """Finish all files and return them in the order in which their partitions were first seen.

        Rows that were never written give no file: no rows, no files.

        Raises:
            ResourceError: The disk is full; all files are discarded.
            SetupError: The file system failed; all files are discarded.
            ValueError: The stager is closed or has failed.
        """
        self._check_open()
        try:
            staged = tuple(file.finish(self._footer) for file in self._files.values())
            for folder in {file.path.parent for file in self._files.values()}:
                _fsync_folder(folder)
        except BaseException:
            self.discard()
            raise
        self._open = False
        return staged

    def discard(self) -> None:
        """Remove every file this stager created, unless it was closed; it cannot be written to afterwards."""
        if self._open:
            self._open = False
            for file in self._files.values():
                file.discard()

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("the stager is closed: expected no write or close after close, discard or an error")

    def _check_schema(self, schema: pa.Schema) -> None:
        plain = schema.remove_metadata()
        if self._schema is None:
            check_partition_types(plain, self._partition_by)
            self._schema = plain
        elif not plain.equals(self._schema):
            raise DataError(
                "the output schema changed within a shard",
                expected=" ".join(str(self._schema).split()),
                found=" ".join(str(plain).split()),
            )

    def _file(self, partition: Partition, schema: pa.Schema) -> OpenFile:
        file = self._files.get(partition)
        if file is None:
            if len(self._files) == self._max_open_files:
                raise ConfigError(
                    f"partition_by {', '.join(self._partition_by)} gives too many files",
                    expected=f"at most {self._max_open_files} distinct values in a shard",
                    found=f"another one: {partition}",
                    remedy="partition by a column with fewer values or not at all, or lower engine.shard_rows",
                )
            path = self._path_for(len(self._files))
            file = OpenFile(path, partition, schema=schema.remove_metadata(), file_format=self._format)
            self._files[partition] = file
        return file

    def _bound_memory(self) -> None:
        while sum(file.buffered_bytes for file in self._files.values()) > MAX_BUFFERED_BYTES:
            max(self._files.values(), key=lambda file: file.buffered_bytes).flush_rows()


def _fsync_folder(folder: Path) -> None:
    with storing("fsync", folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Without it a power loss may leave durable bytes under no name.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
