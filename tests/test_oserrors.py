"""Operating system errors become the error whose exit code asks for the right reaction."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from distilbatch.errors import ResourceError, SetupError
from distilbatch.oserrors import LINK, storage_error, storing


@pytest.mark.parametrize(
    ("number", "kind", "exit_code", "text"),
    [
        (errno.ENOSPC, ResourceError, 7, "cannot write /out/x; expected room for the output; found No space left"),
        (errno.EDQUOT, ResourceError, 7, "free space or raise the quota of /out, then run the same command again"),
        (errno.EFBIG, ResourceError, 7, "free space"),
        (errno.EMFILE, ResourceError, 7, "ulimit -n"),
        (errno.EACCES, SetupError, 6, "make /out writable"),
        (errno.EROFS, SetupError, 6, "make /out writable"),
        (errno.ENOENT, SetupError, 6, "expected the folder /out to exist"),
        (errno.EEXIST, SetupError, 6, "expected a name that was never used"),
        (errno.EIO, SetupError, 6, "check the disk"),
        (errno.EXDEV, SetupError, 6, "found Invalid cross-device link"),
    ],
)
def test_each_errno_has_its_reaction(number, kind, exit_code, text):
    with pytest.raises(kind) as caught, storing("write", Path("/out/x")):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is kind
    assert caught.value.exit_code == exit_code
    assert text in str(caught.value)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV, errno.ENOTSUP])
def test_what_cannot_be_linked_needs_hard_links(number):
    error = storage_error(OSError(number, os.strerror(number)), doing=LINK, path=Path("/out/x"))
    assert isinstance(error, SetupError)
    assert "cannot link /out/x; expected a file system with hard links, that data/ and" in str(error)
    assert "writable" not in str(error)


def test_other_errors_pass_unchanged():
    with pytest.raises(ZeroDivisionError), storing("write", Path("/out/x")):
        raise ZeroDivisionError
