"""Finds the rows that kill a worker process, by halving: each half that kills a sacrificial worker is halved again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Rows = tuple[int, ...]


def find_crashing_rows(rows: Rows, *, survives: Callable[[Rows], bool]) -> Rows:
    """Search ``rows`` for those that kill a process all by themselves.

    Costs about ``2 * log2(len(rows))`` deaths for one such row.

    Args:
        rows: The suspects, rising.
        survives: Computes rows in a process that may die, and says whether it lived.

    Returns:
        The guilty rows, rising; empty when all survive now, or when only rows together kill.
    """
    guilty: list[int] = []
    waiting: list[Rows] = [rows]
    while waiting:
        suspects = waiting.pop()
        if not suspects or survives(suspects):
            continue
        if len(suspects) == 1:
            guilty += suspects
            continue
        middle = len(suspects) // 2
        waiting += [suspects[middle:], suspects[:middle]]
    return tuple(sorted(guilty))


def without_rows(rows: Sequence[int], excluded: Sequence[int]) -> Rows:
    """``rows`` without ``excluded``, in order."""
    gone = frozenset(excluded)
    return tuple(row for row in rows if row not in gone)
