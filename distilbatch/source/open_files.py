"""Keeps files open between the shards of a worker, so that a row group of many shards is decoded once.

Rows of a row group cannot be skipped, only decoded and dropped: a shard that starts its row group anew pays for all
rows before its own, and a row group of n shards for n / 2 times its rows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import pyarrow as pa


class Resumable(Protocol):
    """A file that can be left half read."""

    @property
    def next_row(self) -> int:
        """The row that comes next; going on there costs nothing."""

    def is_like(self, other: object) -> bool:
        """Whether the other one reads the same columns of the same file."""

    def open(self) -> None:
        """Open the file, or check that it still is the one that is open."""

    def close(self) -> None:
        """Close it; a second call does nothing more."""


FileT = TypeVar("FileT", bound=Resumable)


class OpenFiles:
    """Lends files to the threads of a worker.

    There are never more open than were lent at the same time at some moment: memory grows by the number of shards
    under way, not by the number of files.

    Args:
        keep: Whether files stay open when they come back.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._waiting: list[Resumable] = []
        self._lent = 0
        self._most_lent = 0

    @contextmanager
    def lend(self, fresh: FileT, *, row_start: int) -> Iterator[FileT]:
        """Lend a file that is at ``row_start``, or as little before it as there is, until the end of the block.

        Args:
            fresh: Is opened and lent where none of the files that wait will do.
            row_start: The first row that is wanted.

        Raises:
            DistilbatchError: The file cannot be opened, or is another one now.
        """
        file = self._take(fresh, row_start)
        returned = False
        try:
            file.open()
            yield file
            returned = self._keep
        finally:
            if not returned:
                file.close()
            with self._lock:
                self._lent -= 1
                if returned:
                    self._waiting.append(file)

    def _take(self, fresh: FileT, row_start: int) -> FileT:
        with self._lock:
            self._lent += 1
            self._most_lent = max(self._most_lent, self._lent)
            found = fresh
            for file in self._waiting:
                if (
                    isinstance(file, type(fresh))
                    and fresh.is_like(file)
                    and found.next_row <= file.next_row <= row_start
                ):
                    found = file
            if found is not fresh:
                self._waiting.remove(found)
            room = self._most_lent - self._lent
            closed, self._waiting = self._waiting[: len(self._waiting) - room], self._waiting[-room:] if room else []
        for file in closed:
            file.close()
        return found


class RowGroupRows:
    """The rows of a row group, decoded as they are taken.

    Args:
        group: Which row group.
        first: Its first row.
        batches: All its rows in order.
    """

    def __init__(self, group: int, first: int, batches: Iterator[pa.RecordBatch]) -> None:
        self.group = group
        self.next_row = first
        self._batches = batches
        self._rest: pa.RecordBatch | None = None  # of the last batch; keeps all of it in memory

    def take(self, stop: int) -> pa.RecordBatch | None:
        """Take the rows of the next batch that come before ``stop``; None when the row group has ended."""
        batch = next(self._batches, None) if self._rest is None else self._rest
        if batch is None:
            return None
        taken = batch.slice(0, stop - self.next_row)
        self._rest = batch.slice(taken.num_rows) if taken.num_rows < batch.num_rows else None
        self.next_row += taken.num_rows
        return taken
