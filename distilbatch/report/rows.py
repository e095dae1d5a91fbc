"""Checks published files against what the records say of them: bytes, footer, and every row's place in the source.

Reads with pyarrow alone and shares no code with the writer, so that a fault of the writer shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distilbatch import schema
from distilbatch.commit.records import PublishedFile
from distilbatch.fingerprint import sha256_file
from distilbatch.records import Fragment, Shard
from distilbatch.report.runs import Findings

_BATCH_ROWS = 65_536
_PLACES = (schema.STATUS, schema.SOURCE_FILE, schema.SOURCE_ROW)
_SHOWN_RANGES = 5


@dataclass(slots=True)
class ShardRows:
    """The places of the rows of a shard, gathered from its files; as large as the shard, no larger.

    Args:
        source_rows: Source rows, one array a batch.
        statuses: Rows by status.
        foreign_files: Rows by source file, for files that are not the shard's.
    """

    source_rows: list[NDArray[np.int64]] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    foreign_files: Counter[str] = field(default_factory=Counter)


def check_bytes(root: Path, file: PublishedFile, findings: Findings) -> bool:
    """Compare size and checksum; only a file that passes is safe, and worth, to be opened.

    Args:
        root: The sink's folder.
        file: What the records say.
        findings: Told what is wrong.

    Returns:
        Whether the file is the one that was published.
    """
    path = root / file.path
    try:
        size_bytes = path.stat().st_size
        digest = sha256_file(path) if size_bytes == file.size_bytes else ""
    except FileNotFoundError:
        findings.add(f"{file.path}: the file is gone", remedy="restore it from a copy")
        return False
    except OSError as error:
        findings.add(f"{file.path}: the file cannot be read", found=str(error))
        return False
    if size_bytes != file.size_bytes:
        findings.add(
            f"{file.path}: the file was changed after it was published",
            expected=f"{file.size_bytes} bytes",
            found=f"{size_bytes} bytes",
            remedy="restore it from a copy",
        )
    elif digest != file.sha256:
        findings.add(
            f"{file.path}: the file was changed after it was published",
            expected=f"sha256 {file.sha256[:12]}",
            found=f"sha256 {digest[:12]}",
            remedy="restore it from a copy",
        )
    return digest == file.sha256


def read_places(
    root: Path, file: PublishedFile, *, footer: dict[str, str], fragment: Fragment, into: ShardRows, findings: Findings
) -> pa.Schema | None:
    """Check a file's footer and gather the places of its rows.

    Args:
        root: The sink's folder.
        file: The file, its bytes checked.
        footer: Values its footer has to have.
        fragment: The source file its rows have to come from.
        into: Where the places go.
        findings: Told what is wrong.

    Returns:
        Its schema; None when it cannot be read.
    """
    try:
        with pq.ParquetFile(root / file.path) as parquet:
            _check_footer(parquet.metadata, file, footer, findings)
            found: pa.Schema = parquet.schema_arrow.remove_metadata()
            if not _has_places(found):
                findings.add(f"{file.path}: no usable column {schema.ROW!r}", expected=str(schema.ROW_TYPE))
                return found
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=[f"{schema.ROW}.{name}" for name in _PLACES]):
                _gather(batch.column(schema.ROW), fragment.path, into)
    except (pa.ArrowException, OSError) as error:
        findings.add(f"{file.path}: the file cannot be read", expected="a Parquet file", found=str(error))
        return None
    return found


def check_places(
    label: str,
    shard: Shard,
    rows: ShardRows,
    *,
    fragment: Fragment,
    statuses: dict[str, int],
    findings: Findings,
) -> None:
    """Compare the rows of a shard's files with its row range: each exactly once.

    Args:
        label: Names the shard in messages.
        shard: The row range.
        rows: What its files hold.
        fragment: The source file.
        statuses: Rows by status, as its record says.
        findings: Told what is wrong.
    """
    found = np.sort(np.concatenate([np.empty(0, np.int64), *rows.source_rows]))
    distinct, counts = np.unique(found, return_counts=True)
    expected = np.arange(shard.row_start, shard.row_stop)
    where = f"[{shard.row_start}, {shard.row_stop}) of {fragment.path}"
    for what, wrong in (
        ("rows are missing", np.setdiff1d(expected, distinct, assume_unique=True)),
        ("rows are there more than once", distinct[counts > 1]),
        ("rows do not belong to it", np.setdiff1d(distinct, expected, assume_unique=True)),
    ):
        if len(wrong):
            findings.add(
                f"{label}: {len(wrong)} {what}", expected=f"rows {where}, each once", found=_ranges(wrong.tolist())
            )
    for name, count in sorted(rows.foreign_files.items()):
        findings.add(f"{label}: {count} rows are of another file", expected=fragment.path, found=name)
    if rows.statuses != Counter(statuses):
        findings.add(
            f"{label}: the rows do not have the statuses that its record counts",
            expected=_counts(statuses),
            found=_counts(rows.statuses),
        )


def _check_footer(metadata: pq.FileMetaData, file: PublishedFile, footer: dict[str, str], findings: Findings) -> None:
    values = metadata.metadata or {}
    for key, wanted in {**footer, "num_rows": str(file.num_rows)}.items():
        value = values.get(f"{schema.FOOTER_PREFIX}{key}".encode())
        found = "none" if value is None else value.decode(errors="replace")
        if found != wanted:
            findings.add(f"{file.path}: footer value {schema.FOOTER_PREFIX}{key}", expected=wanted, found=found)
    if metadata.num_rows != file.num_rows:
        findings.add(
            f"{file.path}: its rows are not those that were recorded",
            expected=f"{file.num_rows} rows",
            found=f"{metadata.num_rows} rows",
        )


def _has_places(found: pa.Schema) -> bool:
    index = found.get_field_index(schema.ROW)
    if index < 0 or not pa.types.is_struct(found.field(index).type):
        return False
    row = found.field(index).type
    return all(
        row.get_field_index(name) >= 0 and row.field(name).type == schema.ROW_TYPE.field(name).type for name in _PLACES
    )


def _gather(row: pa.StructArray, source_file: str, into: ShardRows) -> None:
    # A null row, which only a foreign writer makes, counts as row -1: it belongs to no shard.
    into.source_rows.append(row.field(schema.SOURCE_ROW).fill_null(-1).to_numpy(zero_copy_only=False))
    for item in row.field(schema.STATUS).value_counts().to_pylist():
        into.statuses[str(item["values"])] += item["counts"]
    for item in row.field(schema.SOURCE_FILE).value_counts().to_pylist():
        if item["values"] != source_file:
            into.foreign_files[str(item["values"])] += item["counts"]


def _ranges(rows: Sequence[int]) -> str:
    """Rising numbers as half-open ranges: ``[3, 5), [7, 8) and 2 more``."""
    ranges: list[list[int]] = []
    for row in rows:
        if ranges and ranges[-1][1] == row:
            ranges[-1][1] = row + 1
        else:
            ranges.append([row, row + 1])
    shown = ", ".join(f"[{start}, {stop})" for start, stop in ranges[:_SHOWN_RANGES])
    return shown + (f" and {len(ranges) - _SHOWN_RANGES} more" if len(ranges) > _SHOWN_RANGES else "")


def _counts(statuses: dict[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()) if count) or "none"
