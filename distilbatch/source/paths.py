"""Finds the files of a source folder and reads Hive partition values out of their paths.

Nothing that matches is passed over in silence: what cannot be followed or named is returned as a bad file. Nor are
files that would match with another of Parquet's usual extensions: they are counted in a warning.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from distilbatch.errors import FileError
from distilbatch.layout import HIVE_NULL
from distilbatch.records import Partition
from distilbatch.source.faults import BadFile, one_line

_HIDDEN = ("_", ".")  # what Spark, Hive and Hadoop keep for themselves: _SUCCESS, _delta_log, .crc
_ANY_FOLDERS = "**"
_EXTENSIONS = (".parquet", ".parq", ".pq")

_log = logging.getLogger("distilbatch")


def find_files(root: Path, *, glob: str) -> tuple[list[str], list[BadFile]]:
    """Find the files below a folder whose path matches a pattern.

    Names that start with ``_`` or ``.`` are skipped, files and folders alike. A symbolic link to something
    that is found under its own name is skipped too: following it would read the same rows twice.

    Args:
        root: An existing folder, already resolved.
        glob: Pattern on the path relative to ``root``; ``**`` stands for any number of folders.

    Returns:
        The paths relative to ``root`` in code point order, and what had to be refused.
    """
    walk = _Walk(root, tuple(glob.split("/")))
    walk.run()
    if walk.passed_over:
        first = min(walk.passed_over)
        _log.warning("files that look like Parquet but do not match %r: %d (%s)", glob, len(walk.passed_over), first)
    return sorted(walk.found), sorted(walk.bad, key=lambda bad: bad.path)


def is_listed(path: str, glob: str) -> bool:
    """Whether :func:`find_files` would find a file of this path, relative to its folder."""
    parts = tuple(path.split("/"))
    return not any(part.startswith(_HIDDEN) for part in parts) and _match(tuple(glob.split("/")), parts)


def parse_hive(path: str) -> Partition:
    """Return the ``key=value`` folders of a path, percent-decoded, in path order.

    Raises:
        FileError: A key occurs twice, or a folder name is not UTF-8 once decoded.
    """
    partition: dict[str, str | None] = {}
    for segment in PurePosixPath(path).parts[:-1]:
        raw_key, equals, raw_value = segment.partition("=")
        if not equals or not raw_key:
            continue
        try:
            key, value = unquote(raw_key, errors="strict"), unquote(raw_value, errors="strict")
        except UnicodeDecodeError as exc:
            raise FileError(path, expected="UTF-8 in percent-encoded folder names", found=segment) from exc
        if key in partition:
            raise FileError(path, expected="each partition key once in a path", found=f"{key!r} twice")
        partition[key] = None if raw_value == HIVE_NULL else value
    return tuple(partition.items())


@dataclass
class _Walk:
    root: Path
    pattern: tuple[str, ...]
    found: list[str] = field(default_factory=list)
    bad: list[BadFile] = field(default_factory=list)
    linked: set[Path] = field(default_factory=set)
    passed_over: list[str] = field(default_factory=list)

    def run(self) -> None:
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self.root / folder) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name)
            except OSError as exc:
                self.bad.append(BadFile(folder or ".", f"the folder cannot be listed: {one_line(exc)}"))
                continue
            for entry in entries:
                path = folder + entry.name
                if entry.name.startswith(_HIDDEN):
                    continue
                if entry.is_symlink():
                    self._link(path)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(path + "/")
                elif self._matches(path):
                    self._file(path, regular=entry.is_file(follow_symlinks=False))
                elif self._matches_otherwise(path):
                    self.passed_over.append(path)

    def _file(self, path: str, *, regular: bool) -> None:
        try:
            path.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(path).decode(errors="backslashreplace")
            self.bad.append(BadFile(shown, "the file name is not UTF-8"))
            return
        if regular:
            self.found.append(path)
        else:
            self.bad.append(BadFile(path, "not a regular file"))  # opening a pipe would wait for ever

    def _link(self, path: str) -> None:
        try:
            target = Path(os.path.realpath(self.root / path, strict=True))
        except OSError as exc:
            if self._matches(path):
                self.bad.append(BadFile(path, f"a symbolic link that leads nowhere: {one_line(exc)}"))
            return
        is_folder = target.is_dir()
        if not is_folder and not self._matches(path):
            return
        if not target.is_relative_to(self.root):
            self.bad.append(BadFile(path, "a symbolic link that leaves the source's folder"))
            return
        relative = target.relative_to(self.root)
        hidden = any(part.startswith(_HIDDEN) for part in relative.parts)
        if is_folder:
            if hidden:
                self.bad.append(BadFile(path, "a symbolic link to a hidden folder"))
        elif (hidden or not self._matches(relative.as_posix())) and target not in self.linked:
            self.linked.add(target)
            self._file(path, regular=target.is_file())

    def _matches(self, path: str) -> bool:
        return _match(self.pattern, tuple(path.split("/")))

    def _matches_otherwise(self, path: str) -> bool:
        stem, extension = os.path.splitext(path)
        return extension.lower() in _EXTENSIONS and any(self._matches(stem + other) for other in _EXTENSIONS)


def _match(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == _ANY_FOLDERS:
        if len(pattern) == 1:
            return True
        return any(_match(pattern[1:], parts[skip:]) for skip in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _match(pattern[1:], parts[1:])
