"""What can be wrong with a source file, and the one place where pyarrow's exceptions become ours.

A damaged file stays damaged and may be set aside. Storage that does not answer, or memory that is short, says nothing
about the file: whatever is given up because of it would be lost although a later reading finds it sound.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from distilbatch.errors import FileError, ResourceError, SetupError
from distilbatch.oserrors import EXHAUSTED

# Seconds to wait before each try at a reading: a network file system that fails over is back within a few.
PAUSES_S = (0.0, 0.5, 2.0)

_MAX_REASON_CHARS = 300
# What opening can say about the file itself.
_OF_THE_FILE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
)

ResultT = TypeVar("ResultT")


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
def reading(path: str, *, opening: bool = False) -> Iterator[None]:
    """Turn whatever pyarrow or the system raises while ``path`` is read into one of our errors.

    pyarrow raises OSError for damaged pages as well; only those of the system have an errno.

    Args:
        path: Relative to the source's root; names the file in the message.
        opening: Whether the file is opened in the block, too: then a file that is not there or may not be read is
            what is wrong.

    Raises:
        FileError: The file, or the part of it that was asked for, is damaged, or cannot be opened.
        ResourceError: Memory or file handles ran out.
        SetupError: The storage did not give the bytes.
    """
    try:
        yield
    except MemoryError as exc:
        raise _exhausted(path, exc) from exc
    except OSError as exc:
        if exc.errno is None or (opening and exc.errno in _OF_THE_FILE):
            raise FileError(path, found=one_line(exc)) from exc
        if exc.errno in EXHAUSTED:
            raise _exhausted(path, exc) from exc
        remedy = "nothing is wrong with the file as far as is known: check its storage, then run the same command again"
        raise SetupError(f"source file {path} cannot be read now", found=one_line(exc), remedy=remedy) from exc
    except (pa.ArrowException, UnicodeDecodeError) as exc:
        raise FileError(path, found=one_line(exc)) from exc


def patiently(call: Callable[[], ResultT]) -> ResultT:
    """Call once more after each pause while the storage does not answer or memory is short.

    Raises:
        DistilbatchError: What the last try raised.
    """
    for pause in PAUSES_S[1:]:
        try:
            return call()
        except (ResourceError, SetupError):
            time.sleep(pause)
    return call()


def _exhausted(path: str, error: BaseException) -> ResourceError:
    remedy = "raise the limit (memory, ulimit -n) or use fewer workers, then run the same command again"
    return ResourceError(f"source file {path} cannot be read now", found=one_line(error), remedy=remedy)
