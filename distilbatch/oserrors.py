"""Which of our errors an operating system error becomes: the one table from errno to reaction.

And how a path that somebody wrote is looked at first: it may have any length, hold any character and lead in circles.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distilbatch.errors import ConfigError, ResourceError, SetupError, StopError

LINK = "link"
LOOK = "look at"
MAX_NAME_BYTES = 255  # of a file or folder, on the common file systems
MAX_PATH_BYTES = 4095  # of what Linux takes in one call
NOTHING = "nothing there"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# What link(2) says of file systems without hard links, of ones that are two, and of files of somebody else.
_UNLINKABLE = frozenset({errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS})
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR})
_NO_PATHS = frozenset({errno.ENAMETOOLONG, errno.ELOOP})  # of nothing, on any storage
_SHORT = f"names of at most {MAX_NAME_BYTES} bytes, and {MAX_PATH_BYTES} in all"


def storage_error(error: OSError, *, doing: str, path: Path) -> StopError:
    """Return the error to raise for an operating system error met while writing.

    Args:
        error: What the system said.
        doing: What was being done, such as ``write``, ``fsync``, :data:`LINK` or :data:`LOOK`.
        path: The file or folder it was done to.

    Returns:
        ResourceError for a full disk, an exhausted quota or too many open files; ConfigError for a name that is too
        long; SetupError for anything else.
    """
    what, found = f"cannot {doing} {path}", error.strerror or str(error)
    if error.errno == errno.ENAMETOOLONG:
        return ConfigError(what, expected=_SHORT, found=found, remedy="choose a shorter path")
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
    if error.errno in _FORBIDDEN and doing == LOOK:
        remedy = f"let this user read and search {path.parent}"
        return SetupError(what, expected="a folder that may be searched", found=found, remedy=remedy)
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
        ConfigError: A name is too long.
        SetupError: Any other operating system error.
    """
    try:
        yield
    except OSError as exc:
        raise storage_error(exc, doing=doing, path=path) from exc


def excess_of(path: str) -> str:
    """Say which bound of all file systems a path exceeds; empty when it keeps them."""
    parts = [len(part.encode(errors="surrogatepass")) for part in path.split("/")]
    if (longest := max(parts)) > MAX_NAME_BYTES:
        return f"a name of {longest} bytes, and file systems take {MAX_NAME_BYTES}"
    if (total := sum(parts) + len(parts) - 1) > MAX_PATH_BYTES:
        return f"{total} bytes, and file systems take {MAX_PATH_BYTES}"
    return ""


def what_is_at(path: Path) -> str:
    """``a folder``, ``a file``, ``nothing there``, or why there can be nothing.

    To decide, ask ``os.path.isdir`` and its like, which say no to every path that the system refuses: the methods of
    ``Path`` raise for names that are too long and for folders that may not be searched. What they said no to is then
    looked at here, where storage that does not answer is not taken for storage without the file.

    Raises:
        SetupError: The folder may not be searched, or the storage does not answer.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno in _MISSING:
            return NOTHING
        if error.errno in _NO_PATHS:
            return os.strerror(error.errno)
        raise storage_error(error, doing=LOOK, path=path) from error
    except ValueError as error:  # a null character
        return str(error)
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a file" if stat.S_ISREG(mode) else "neither a file nor a folder"


def resolved(path: Path) -> Path:
    """The absolute path without links, as far as they lead anywhere; ``Path.resolve`` raises for those in a circle."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a null character
        return path.absolute()
