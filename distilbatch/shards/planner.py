"""Cuts fragments into shards. Pure and deterministic: the same files and settings give the same plan anywhere.

A shard's id depends on its own file and rows only, so files that come or go never change the ids of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from distilbatch.fingerprint import fingerprint
from distilbatch.records import Fragment, Shard

# What a crash costs at most: some minutes of work even on a small CPU (2 MiB is about 500 000 tokens).
DEFAULT_MAX_ROWS = 8192
DEFAULT_MAX_TEXT_BYTES = 2 << 20

_MIN_MAX_ROWS = 1024  # a file and a record for less work than that are not worth it
_MIN_SHARDS = 8  # of a small table, so that a few workers end at about the same time

RowRange = tuple[int, int]


def suitable_max_rows(
    fragments: Sequence[Fragment],
    *,
    ranges: Mapping[int, Sequence[RowRange]] | None = None,
    limit: int | None = None,
) -> int:
    """Most rows of a shard, for a table of this size; see :func:`plan_shards` for the arguments."""
    if ranges is None:
        rows = sum(fragment.num_rows for fragment in fragments)
    else:
        rows = sum(stop - start for wanted in ranges.values() for start, stop in wanted)
    rows = rows if limit is None else min(rows, limit)
    return min(max(_ceil_div(rows, _MIN_SHARDS), _MIN_MAX_ROWS), DEFAULT_MAX_ROWS)


def with_cut_texts(fragments: Sequence[Fragment], *, max_row_bytes: int) -> tuple[Fragment, ...]:
    """The fragments with no more text bytes than make work where longer texts are cut: what planning is to weigh."""
    return tuple(
        replace(
            fragment,
            text_bytes=tuple(
                min(size, rows * max_row_bytes)
                for size, rows in zip(fragment.text_bytes, fragment.row_groups, strict=True)
            ),
        )
        for fragment in fragments
    )


def plan_shards(
    fragments: Sequence[Fragment],
    *,
    ranges: Mapping[int, Sequence[RowRange]] | None = None,
    model_fingerprint: str,
    semantic_fingerprint: str,
    max_rows: int = DEFAULT_MAX_ROWS,
    max_text_bytes: int = DEFAULT_MAX_TEXT_BYTES,
    limit: int | None = None,
) -> tuple[Shard, ...]:
    """Cut row ranges into shards, in the order of the fragments and of their rows.

    Cuts fall on row group bounds where they can: small row groups join until the next one would not fit, and
    only a row group over a limit is split, into ranges of near-equal rows. A shard never crosses a gap between
    ranges or the end of its fragment.

    Args:
        fragments: The files, in plan order.
        ranges: Rows still to be labelled, by index of the fragment: sorted, disjoint ``[start, stop)``. A fragment
            that is not in the mapping has none left. None: every row of every fragment.
        model_fingerprint: What labels the rows.
        semantic_fingerprint: The settings that change results.
        max_rows: Most rows of a shard.
        max_text_bytes: Most uncompressed text bytes of a shard, as far as row groups tell; a shard of one row may
            be larger.
        limit: Only the first so many rows in plan order; None for all.

    Raises:
        ValueError: A limit is out of range, or ``ranges`` are not sorted, disjoint and inside their fragment.
    """
    if max_rows < 1 or max_text_bytes < 1 or (limit is not None and limit < 0):
        raise ValueError(
            f"plan_shards: expected max_rows and max_text_bytes of at least 1 and no negative limit, "
            f"found {max_rows}, {max_text_bytes} and {limit}"
        )
    shards: list[Shard] = []
    rows_left = limit
    for index, fragment in enumerate(fragments):
        if rows_left == 0:
            break
        wanted = [(0, fragment.num_rows)] if ranges is None else ranges.get(index, ())
        _check_ranges(fragment, wanted)
        for start, stop in _cut(fragment, wanted, max_rows=max_rows, max_text_bytes=max_text_bytes):
            end = stop if rows_left is None else min(stop, start + rows_left)
            if start == end:
                break
            shard_id = _shard_id(fragment, (start, end), model_fingerprint, semantic_fingerprint)
            shards.append(Shard(len(shards), shard_id, index, start, end))
            if rows_left is not None:
                rows_left -= end - start
    return tuple(shards)


def text_bytes_of(fragment: Fragment, shard: Shard) -> int:
    """Uncompressed bytes of a shard's text, as far as row groups tell."""
    return sum(size for _, _, size in _pieces(fragment, shard.row_start, shard.row_stop))


def _shard_id(fragment: Fragment, rows: RowRange, model_fingerprint: str, semantic_fingerprint: str) -> str:
    return fingerprint(
        {
            "model": model_fingerprint,
            "semantic": semantic_fingerprint,
            "fragment": list(fragment.identity),
            "rows": list(rows),
        }
    )


def _check_ranges(fragment: Fragment, ranges: Sequence[RowRange]) -> None:
    previous = 0
    for start, stop in ranges:
        if not previous <= start <= stop <= fragment.num_rows:
            raise ValueError(
                f"{fragment.path}: expected sorted and disjoint row ranges inside [0, {fragment.num_rows}), "
                f"found {list(ranges)}"
            )
        previous = stop


def _cut(fragment: Fragment, ranges: Sequence[RowRange], *, max_rows: int, max_text_bytes: int) -> Iterator[RowRange]:
    for range_start, range_stop in ranges:
        start, text_bytes = range_start, 0  # the shard being filled is [start, here)
        for here, stop, piece_bytes in _pieces(fragment, range_start, range_stop):
            parts = max(_ceil_div(stop - here, max_rows), _ceil_div(piece_bytes, max_text_bytes))
            joins = parts <= 1 and stop - start <= max_rows and text_bytes + piece_bytes <= max_text_bytes
            if not joins and start < here:
                yield start, here
                start, text_bytes = here, 0
            if parts > 1:
                yield from _split(here, stop, min(parts, stop - here))
                start = stop
            else:
                text_bytes += piece_bytes
        if start < range_stop:
            yield start, range_stop


def _pieces(fragment: Fragment, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield the part of each row group inside ``[start, stop)`` with its share of the row group's text bytes."""
    group_start = 0
    for num_rows, text_bytes in zip(fragment.row_groups, fragment.text_bytes, strict=True):
        group_stop = group_start + num_rows
        low, high = max(start, group_start), min(stop, group_stop)
        if low < high:
            yield low, high, text_bytes * (high - low) // num_rows
        group_start = group_stop


def _split(start: int, stop: int, parts: int) -> Iterator[RowRange]:
    num_rows = stop - start
    for part in range(parts):
        yield start + num_rows * part // parts, start + num_rows * (part + 1) // parts


def _ceil_div(value: int, by: int) -> int:
    return -(-value // by)
