"""Which rows are still to be labelled: all rows minus those earlier runs have claimed.

A claim counts for the very file it was made for (path, size, footer digest); a file that was rewritten is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from distilbatch.records import Fragment

Identity = tuple[str, int, str]


def remaining_ranges(
    fragments: Sequence[Fragment], claimed: Iterable[tuple[Identity, int, int]]
) -> dict[int, list[tuple[int, int]]]:
    """Subtract claimed row ranges from fragments.

    Args:
        fragments: The files as they are now.
        claimed: Identity of a file and a claimed range ``[start, stop)`` of its rows, in any order; ranges may
            overlap, repeat, be empty or belong to files that are gone.

    Returns:
        By index of the fragment, the sorted, disjoint and non-empty ranges nobody claimed. A fragment without
        any is left out.
    """
    by_file: dict[Identity, list[tuple[int, int]]] = {}
    for identity, start, stop in claimed:
        by_file.setdefault(identity, []).append((start, stop))
    remaining: dict[int, list[tuple[int, int]]] = {}
    for index, fragment in enumerate(fragments):
        gaps = _gaps(fragment.num_rows, sorted(by_file.get(fragment.identity, ())))
        if gaps:
            remaining[index] = gaps
    return remaining


def _gaps(num_rows: int, claimed: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    gaps: list[tuple[int, int]] = []
    free_from = 0
    for start, stop in claimed:
        if stop <= start:
            continue
        if free_from < min(start, num_rows):
            gaps.append((free_from, min(start, num_rows)))
        free_from = max(free_from, stop)
    if free_from < num_rows:
        gaps.append((free_from, num_rows))
    return gaps
