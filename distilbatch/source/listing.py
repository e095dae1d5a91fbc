"""Lists a source: its files in a fixed order, their identities, and the one schema they are read with.

Everything that can be known from footers is checked here, before any model is loaded, and all bad files are
reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from distilbatch.errors import ConfigError, DataError, FileError
from distilbatch.oserrors import resolved, what_is_at
from distilbatch.records import Fragment
from distilbatch.source.faults import BadFile, patiently
from distilbatch.source.footers import Footer, describe_columns, read_source_footer
from distilbatch.source.paths import find_files, parse_hive
from distilbatch.source.schemas import unify

__all__ = ["FAIL", "HIVE", "NONE", "QUARANTINE", "BadFile", "Listing", "list_fragments"]

HIVE = "hive"
NONE = "none"
FAIL = "fail"
QUARANTINE = "quarantine"
_FOOTER_THREADS = 8
_SHOWN_BAD_FILES = 10


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source holds.

    Args:
        fragments: The files in code point order of their paths.
        schema: The text column, then the other wanted columns; what ``read_shard`` returns.
        bad_files: Files that were set aside; empty when ``on_bad_file`` is ``fail``.
    """

    fragments: tuple[Fragment, ...]
    schema: pa.Schema
    bad_files: tuple[BadFile, ...]


def list_fragments(
    root: Path, *, text_column: str, columns: Sequence[str], partitioning: str, glob: str, on_bad_file: str
) -> Listing:
    """List the Parquet files of a folder, or one file, and unify the types of the wanted columns.

    The order depends on names only, so listing the same files twice gives the same plan. A wanted column that
    only some files have is null in the others, and a file without rows and columns takes part with no rows. INT96
    timestamps are microseconds; what is finer is cut off.

    Args:
        root: A folder, or one Parquet file.
        text_column: The documents' column: string, binary, their large forms and views, a dictionary of them, or null.
        columns: Other columns to read; Hive partition keys may be among them and are strings.
        partitioning: ``hive`` or ``none``.
        glob: Pattern on paths relative to ``root``, such as ``**/*.parquet``; not used for a single file.
        on_bad_file: ``fail`` or ``quarantine``.

    Raises:
        ConfigError: A setting has no such value, no file has a wanted column, or the text column is a partition key.
        DataError: There is nothing to read, files cannot be read (all are named at once), types do not go together, or
            a wanted column has another case in a file.
        ResourceError: Memory or file handles ran out.
        SetupError: The storage did not answer; no file is set aside for that.
    """
    _check_choice("partitioning", partitioning, (HIVE, NONE))
    _check_choice("on_bad_file", on_bad_file, (FAIL, QUARANTINE))
    real = resolved(root)
    bad: list[BadFile] = []
    if os.path.isfile(real):
        paths, folder = [real.name], real.parent
    elif os.path.isdir(real):
        paths, bad = find_files(real, glob=glob)
        folder = real
    else:
        raise DataError(
            f"source {str(root)!r}",
            expected="an existing folder or Parquet file",
            found=what_is_at(root),
            remedy="check the path",
        )
    if not paths and not bad:
        raise DataError(
            f"source {str(root)!r} has no files that match {glob!r}",
            remedy="check the folder and the glob; names that start with '_' or '.' are skipped",
        )
    read = partial(_read, folder, text_column=text_column, columns=columns, hive=partitioning == HIVE)
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        results = list(pool.map(read, paths))
    footers = [result for result in results if isinstance(result, Footer)]
    bad += [result for result in results if isinstance(result, BadFile)]
    bad.sort(key=lambda bad_file: bad_file.path)
    if bad and (on_bad_file == FAIL or not footers):
        raise _bad_files_error(bad, total=len(footers) + len(bad))
    _check_columns(footers, columns, text_column=text_column)
    schema = unify(
        ((footer.fragment.path, footer.types) for footer in footers), text_column=text_column, columns=columns
    )
    return Listing(tuple(footer.fragment for footer in footers), schema, tuple(bad))


def _read(folder: Path, path: str, *, text_column: str, columns: Sequence[str], hive: bool) -> Footer | BadFile:
    try:
        partition = parse_hive(path) if hive else ()
        if text_column in dict(partition):
            raise ConfigError(
                f"text column {text_column!r} is also a partition key, in {path}",
                remedy="set partitioning: none, or name another text column",
            )
        return patiently(
            lambda: read_source_footer(
                folder / path, path, partition=partition, text_column=text_column, columns=columns
            )
        )
    except FileError as exc:
        return BadFile(path, "expected " + exc.expected + ", found " + exc.found if exc.expected else exc.found)


def _bad_files_error(bad: Sequence[BadFile], *, total: int) -> DataError:
    shown = " | ".join(f"{item.path}: {item.reason}" for item in bad[:_SHOWN_BAD_FILES])
    more = f" | and {len(bad) - _SHOWN_BAD_FILES} more" if len(bad) > _SHOWN_BAD_FILES else ""
    return DataError(
        f"{len(bad)} of {total} source files cannot be read",
        found=shown + more,
        remedy=f"repair or remove them, name another text column in source.columns.text, or set on_bad_file: "
        f"{QUARANTINE} to go on without them",
    )


def _check_columns(footers: Sequence[Footer], columns: Sequence[str], *, text_column: str) -> None:
    for name in columns:
        if all(name in footer.missing for footer in footers):
            available = {column: None for footer in footers for column in footer.columns}
            keys = {key: None for footer in footers for key, _ in footer.fragment.partition}
            raise ConfigError(
                f"no source file has a column {name!r}{describe_columns(name, [*available, *keys])}",
                remedy="correct the name in columns",
            )
    asked = {text_column, *columns}
    for footer in footers:
        names = [*footer.columns, *(key for key, _ in footer.fragment.partition)]
        for name in footer.missing:
            # Null in this file, were it another column; but engines that ignore case write one column both ways.
            twin = next((each for each in names if each.lower() == name.lower() and each not in asked), None)
            if twin is not None:
                raise DataError(
                    f"column {name!r} has another spelling in some files",
                    found=f"{twin!r} in {footer.fragment.path}",
                    remedy="write the files with one spelling, ask for both columns, or leave the column out",
                )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(name, expected=" or ".join(repr(choice) for choice in choices), found=repr(value))
