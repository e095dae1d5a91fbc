"""Operating system errors become the error whose exit code asks for the right reaction."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from distilbatch.errors import ConfigError, ResourceError, SetupError
from distilbatch.oserrors import LINK, excess_of, resolved, storage_error, storing, what_is_at


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
        (errno.ENAMETOOLONG, ConfigError, 2, "expected names of at most 255 bytes, and 4095 in all; found File name"),
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


@pytest.mark.parametrize(
    ("path", "excess"),
    [
        ("a/" + "x" * 255, ""),
        ("a/" + "x" * 256 + "/b", "a name of 256 bytes, and file systems take 255"),
        ("ü" * 128, "a name of 256 bytes, and file systems take 255"),
        ("\udc80" * 86, "a name of 258 bytes, and file systems take 255"),
        ("ab/" * 1365, ""),
        ("ab/" * 1365 + "c", "4096 bytes, and file systems take 4095"),
        ("", ""),
    ],
    ids=len,
)
def test_a_path_that_is_too_long_for_any_file_system_is_told(path, excess):
    assert excess_of(path) == excess


def test_any_path_can_be_looked_at(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    names = (".", "link", "pipe", "none", "file/below", "x" * 300, "a\0b", "loop/x")
    assert [what_is_at(tmp_path / name) for name in names] == [
        "a folder",
        "a file",
        "neither a file nor a folder",
        "nothing there",
        "nothing there",
        "File name too long",
        "embedded null byte",
        "Too many levels of symbolic links",
    ]
    assert resolved(tmp_path / "link") == (tmp_path / "file").resolve()
    for name in ("x" * 300, "a\0b", "loop"):
        assert resolved(tmp_path / name).name == name


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_storage_that_does_not_answer_is_not_taken_for_a_missing_file(monkeypatch, tmp_path, code):
    def refuse(_path: Path, **_options: object) -> os.stat_result:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched, pytest.raises(SetupError, match=os.strerror(code)) as caught:  # noqa: PT012
        patched.setattr(os, "stat", refuse)
        what_is_at(tmp_path)
    assert "writable" not in str(caught.value)
