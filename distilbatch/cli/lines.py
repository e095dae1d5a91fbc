"""Lines of standard input, read in a thread within a bound on bytes, for the verb ``pipe``."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from distilbatch.errors import SetupError

MAX_LINE_BYTES = 8 << 20  # a text is cut at 1 MiB, which escapes of JSON make 6 MiB at most
_QUEUE_BYTES = 16 << 20
_QUEUE_LINES = 4096
_BATCH_BYTES = 1 << 20
_BATCH_LINES = 512
_DROPPED_BYTES = 64 << 10  # at a time
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def is_cut(line: bytes) -> bool:
    """Whether a line of ``BackgroundLines`` is the beginning of a longer one."""
    return len(line) > MAX_LINE_BYTES and not line.endswith(b"\n")


class BackgroundLines:
    """The lines of a stream, which a thread reads ahead from now on.

    A line ends with a line feed. Of one of more than ``MAX_LINE_BYTES`` there is only the beginning, one byte longer
    than that; the rest is read and dropped. A byte order mark before a first line that is whole is dropped.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def batches(self) -> Iterator[list[bytes]]:
        """Give whatever has arrived by now, one line at least: a slow stream is answered line by line.

        Raises:
            SetupError: The stream cannot be read on; what came before was given.
        """
        while batch := self._take():
            yield batch
        if isinstance(self._error, OSError):
            raise SetupError("standard input cannot be read to its end", found=str(self._error)) from self._error
        if self._error is not None:
            raise self._error

    def _take(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            while self._waiting and len(batch) < _BATCH_LINES:
                size += len(self._waiting[0])
                if batch and size > _BATCH_BYTES:
                    break
                batch.append(self._waiting.popleft())
            self._bytes -= sum(map(len, batch))
            self._changed.notify_all()
        return batch

    def _read(self) -> None:
        try:
            line = self._line()
            if not is_cut(line):
                line = line.removeprefix(_BYTE_ORDER_MARK)
            while line:
                self._put(line)
                line = self._line()
        except Exception as error:  # raised where the lines are taken
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _line(self) -> bytes:
        line = rest = self._stream.readline(MAX_LINE_BYTES + 1)
        if is_cut(line):
            while rest and not rest.endswith(b"\n"):
                rest = self._stream.readline(_DROPPED_BYTES)
        return line

    def _put(self, line: bytes) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._bytes < _QUEUE_BYTES and len(self._waiting) < _QUEUE_LINES)
            self._waiting.append(line)
            self._bytes += len(line)
            self._changed.notify_all()
