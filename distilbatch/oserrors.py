"""Which of our errors an operating system error becomes: the one table from errno to reaction."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distilbatch.errors import ResourceError, SetupError, StopError

LINK = "link"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# What link(2) says of file systems without hard links, of ones that are two, and of files of somebody else.
_UNLINKABLE = frozenset({errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS})
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR})


def storage_error(error: OSError, *, doing: str, path: Path) -> StopError:
    """Return the error to raise for an operating system error met while writing.

    Args:
        error: What the system said.
        doing: What was being done, such as ``write``, ``fsync`` or :data:`LINK`.
        path: The file or folder it was done to.

    Returns:
        ResourceError for a full disk, an exhausted quota or too many open files; SetupError for anything else.
    """
    what, found = f"cannot {doing} {path}", error.strerror or str(error)
    if error.errno in _FULL:
        remedy = f"free space or raise the quota of {path.parent}, then run the same command again"
        return ResourceError(what, expected="room for the output", found=found, remedy=remedy)
    if error.errno in EXHAUSTED:
        remedy = "raise the limit (ulimit -n, memory) or use fewer workers, then run the same command again"
        return ResourceError(what, found=found, remedy=remedy)
    if doing == LINK and error.errno in _UNLINKABLE:
        expected = "a file system with hard links, that data/ and _distilbatch/ share"
        remedy = "choose a sink.path on one, or move data/ there, then run the same command again"
        return SetupError(what, expected=expected, found=found, remedy=remedy)
    if error.errno in _FORBIDDEN:
        remedy = f"make {path.parent} writable for this user, or choose another output folder"
        return SetupError(what, expected="a folder that can be written", found=found, remedy=remedy)
    if error.errno in _MISSING:
        return SetupError(what, expected=f"the folder {path.parent} to exist", found=found)
    if error.errno == errno.EEXIST:
        return SetupError(what, expected="a name that was never used", found=found)
    if error.errno == errno.EIO:
        remedy = "check the disk; nothing that was written to this file is trusted"
        return SetupError(what, found=found, remedy=remedy)
    return SetupError(what, found=found)


@contextmanager
def storing(doing: str, path: Path) -> Iterator[None]:
    """Turn operating system errors of the ``with`` block into ours.

    Args:
        doing: What is being done, such as ``write`` or ``fsync``.
        path: The file or folder it is done to.

    Raises:
        ResourceError: No space, quota or file handles left.
        SetupError: Any other operating system error.
    """
    try:
        yield
    except OSError as exc:
        raise storage_error(exc, doing=doing, path=path) from exc
