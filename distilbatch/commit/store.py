"""The one primitive the protocol stands on: create a file exclusively, atomically and durably.

A store for object storage (conditional PUT) has its place beside :class:`LocalStore`.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from typing_extensions import override

from distilbatch.errors import ConflictError, SetupError
from distilbatch.layout import SinkLayout
from distilbatch.oserrors import LINK, LOOK, storage_error, storing

_SEEN_WITHIN_S = 3.0  # a network file system may still remember that there was no plan


class Store(Protocol):
    """Where records and published files live."""

    def put_new(self, path: Path, data: bytes) -> bool:
        """Create ``path`` with ``data``, durably; False, and nothing changed, when it exists already."""

    def link_new(self, staged: Path, final: Path) -> bool:
        """Make a staged file visible as ``final``; False, and nothing changed, when ``final`` is another file.

        Repeating it is harmless: True when ``final`` is this very file already.
        """

    def read(self, path: Path, *, max_bytes: int) -> bytes | None:
        """The content of ``path``; None when there is none."""

    def names(self, folder: Path) -> list[str]:
        """Names in ``folder``, sorted; empty when there is no such folder."""

    def size(self, path: Path) -> int | None:
        """Size in bytes; None when there is no such file."""

    def replace(self, path: Path, data: bytes) -> None:
        """Write a derived file, whatever was there; readers see the old or the new content, never a mixture."""

    def remove(self, path: Path) -> None:
        """Remove a file that nothing needs any more; no error when it is gone."""


class LocalStore(Store):
    """A local or network file system with atomic ``link``.

    Guarantee: what :meth:`put_new` and :meth:`link_new` acknowledged survives the death of the process and, as
    far as the disk honours fsync, the loss of power.
    """

    @override
    def put_new(self, path: Path, data: bytes) -> bool:
        with storing("write", path):
            make_folder(path.parent)
            temporary = path.parent / f".{path.name}.{uuid4().hex}.tmp"
            try:
                _write_durably(temporary, data)
                return _link(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)  # another name of the same file; never the final one

    @override
    def link_new(self, staged: Path, final: Path) -> bool:
        with storing("write", final):
            make_folder(final.parent)
            return _link(staged, final)

    @override
    def read(self, path: Path, *, max_bytes: int) -> bytes | None:
        with storing("read", path):
            try:
                with path.open("rb") as file:
                    # Before it is read: nobody should need the memory to learn that it is too large.
                    size = os.fstat(file.fileno()).st_size
                    if size <= max_bytes:
                        return file.read(max_bytes)
            except FileNotFoundError:
                return None
        raise ConflictError(
            f"{path}: too large for a record",
            expected=f"at most {max_bytes} bytes",
            found=str(size),
            remedy="the control folder was edited or damaged; restore it or write to a new sink.path",
        )

    @override
    def names(self, folder: Path) -> list[str]:
        with storing("list", folder):
            try:
                return sorted(entry for entry in os.listdir(folder) if not entry.startswith("."))
            except FileNotFoundError:
                return []

    @override
    def size(self, path: Path) -> int | None:
        with storing(LOOK, path):
            try:
                return path.stat().st_size
            except FileNotFoundError:
                return None

    @override
    def replace(self, path: Path, data: bytes) -> None:
        with storing("write", path):
            make_folder(path.parent)
            temporary = path.parent / f".{path.name}.{uuid4().hex}.tmp"
            try:
                _write_durably(temporary, data)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    @override
    def remove(self, path: Path) -> None:
        with storing("write", path):
            path.unlink(missing_ok=True)


def refuse_two_file_systems(sink: SinkLayout) -> None:
    """Refuse a sink whose staged files could not be linked to where they are to be published.

    Args:
        sink: Its paths; folders that are missing come into being where their parents are.

    Raises:
        SetupError: Published files and records are on two file systems.
    """
    data, control = (_existing(folder) for folder in (sink.data, sink.control))
    with storing(LOOK, sink.root):
        if data.stat().st_dev == control.stat().st_dev:
            return
    raise SetupError(
        f"{sink.data} and {sink.control} are on two file systems",
        expected="one: files are published by hard links",
        found=f"{data.resolve()} and {control.resolve()}",
        remedy="let sink.path itself be a link to the other file system, not data/ in it",
    )


def refuse_unshared(plan: Path) -> None:
    """Refuse to work where the run's plan is not to be seen: what is staged there could never be published.

    Args:
        plan: The plan's path, which the driver wrote before it started any worker.

    Raises:
        SetupError: It is not there.
    """
    give_up_at = time.monotonic() + _SEEN_WITHIN_S
    while not plan.is_file():
        if time.monotonic() >= give_up_at:
            raise SetupError(
                f"sink.path is not shared with node {socket.gethostname()}",
                expected=f"the plan of the run, {plan}",
                found="no such file there",
                remedy="write to a folder that all nodes share under one path",
            )
        time.sleep(0.1)


def _existing(folder: Path) -> Path:
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, each made durable in its own parent."""
    missing: list[Path] = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _link(source: Path, final: Path) -> bool:
    try:
        os.link(source, final)
        created = True
    except OSError as error:
        # NFS may have made the link and lost the reply; two names then share one file. And when the source is gone,
        # somebody else has linked and removed it: the final name decides.
        created = _same_file(source, final)
        if not created and error.errno != errno.EEXIST and not final.exists():
            raise storage_error(error, doing=LINK, path=final) from error
    # Also when it existed before: the caller is about to rely on it.
    fsync_folder(final.parent)
    return created


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False
