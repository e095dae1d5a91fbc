"""Finds the rows that kill a worker process, with sacrificial workers that note each row before they compute it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from distilbatch.errors import ResourceError

Rows = tuple[int, ...]

CRASH_MESSAGE = "WORKER_CRASH: computing this row killed its worker process"
_ROWS_OF_A_BATCH = 10  # a low estimate
_LEAST_PROBE_S = 60.0
MAX_NEIGHBOURS = 8  # suspects in a row that kill: beyond it the rows are hardly to blame


def find_crashing_rows(rows: Rows, *, dies_at: Callable[[Rows], int | None]) -> Rows:
    """Search ``rows`` for those that kill a process all by themselves.

    Costs two deaths for each such row: one that shows it, and one to see that it was no accident.

    Args:
        rows: The suspects, rising.
        dies_at: Computes rows one after the other in a process that may die. Returns the row it died at; None when
            it lived, or when that cannot be told.

    Returns:
        The guilty rows, rising; empty when all survive now, or when only rows together kill.

    Raises:
        ResourceError: So many neighbours kill that the cause has to be something else.
    """
    suspects: list[int] = []
    neighbours = 0
    while rows and (row := dies_at(rows)) in rows:
        position = rows.index(row)
        suspects.append(row)
        neighbours = neighbours + 1 if position == 0 else 1
        if neighbours > MAX_NEIGHBOURS:
            raise ResourceError(
                "row after row kills its worker",
                expected=f"at most {MAX_NEIGHBOURS} neighbours that do",
                found=f"rows {suspects[-neighbours]} to {row}",
                remedy="look for the cause in the model, the hooks or the machine",
            )
        rows = rows[position + 1 :]
    return tuple(row for row in suspects if dies_at((row,)) == row)


def hang_message(limit_s: float) -> str:
    """The error of a row that hangs."""
    return (
        f"WORKER_HANG: computing this row made no progress for {limit_s:g} s; "
        "if it only needs longer, raise engine.hang_timeout_s in another run"
    )


def probe_timeout_s(limit_s: float) -> float:
    """How long nothing may come of a single row, where ``limit_s`` is for a batch: all else waits for a search."""
    return max(limit_s / _ROWS_OF_A_BATCH, min(limit_s, _LEAST_PROBE_S))


def without_rows(rows: Sequence[int], excluded: Collection[int]) -> Rows:
    """``rows`` without ``excluded``, in order."""
    gone = frozenset(excluded)
    return tuple(row for row in rows if row not in gone)
