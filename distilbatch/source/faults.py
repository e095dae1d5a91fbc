"""What can be wrong with a source file, and the one place where pyarrow's exceptions become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from distilbatch.errors import FileError

_MAX_REASON_CHARS = 300


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file or folder of the source that cannot be used.

    Args:
        path: Relative to the source's root, with forward slashes.
        reason: Why, in one line.
    """

    path: str
    reason: str


def one_line(error: BaseException) -> str:
    """Return the message of an exception in one line of bounded length."""
    strerror = getattr(error, "strerror", None)
    text = " ".join((strerror or str(error) or type(error).__name__).split())
    return text if len(text) <= _MAX_REASON_CHARS else text[: _MAX_REASON_CHARS - 3] + "..."


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn whatever pyarrow or the file system raises while ``path`` is read into a FileError.

    Args:
        path: Relative to the source's root; names the file in the message.

    Raises:
        FileError: The file, or the part of it that was asked for, cannot be read.
    """
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
        raise FileError(path, found=one_line(exc)) from exc
