"""The chain of claims of a job: which run key labels which rows, decided before any work is done.

This is what makes nightly runs incremental. A window plans the rows no earlier window has claimed, by file
identity and row range; the numbered records are created by put-if-absent, so two windows that plan at the same
time can never claim the same row. Claims are never withdrawn: an unfinished window is finished, not replanned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from distilbatch.commit.records import MAX_RECORD_BYTES, ClaimRecord, PlanRecord, parse
from distilbatch.commit.store import Store
from distilbatch.errors import ConflictError
from distilbatch.layout import SinkLayout

ClaimedRange = tuple[tuple[str, int, str], int, int]

_NUMBERED = re.compile(r"[0-9]{6,}\.json")


class ClaimChain:
    """The claims of one job on one sink, in order.

    Guarantee: two plans in the chain have no row of the same file in common, provided each was built from the
    entries it was given.

    Args:
        store: Where the records live.
        layout: The sink's paths.
        job: The job's name.
    """

    def __init__(self, store: Store, layout: SinkLayout, job: str) -> None:
        self._store = store
        self._layout = layout
        self._job = job

    def plans(self) -> list[PlanRecord]:
        """The plans in the chain, oldest first.

        Raises:
            ConflictError: A claim is damaged or gone.
        """
        return list(self._entries())

    def claim(self, build: Callable[[Sequence[PlanRecord]], PlanRecord]) -> PlanRecord:
        """Append a plan, or return the plan this run key has in the chain already.

        Args:
            build: Makes the plan from the entries so far; called again when another run key was faster.

        Returns:
            The plan as it stands in the chain. A crash right after leaves a claim without ``plan.json``; the next
            start of the same run key finds it here.

        Raises:
            ConflictError: The chain is damaged.
        """
        while True:
            entries = self.plans()
            plan = build(entries)
            for entry in entries:
                if entry.window == plan.window:
                    return entry
            path = self._layout.claim(self._job, len(entries) + 1)
            if self._store.put_new(path, ClaimRecord(plan=plan).to_bytes()):
                return plan
            if self._store.read(path, max_bytes=MAX_RECORD_BYTES) is None:
                raise ConflictError(
                    f"{path}: the name of a claim is taken by something that cannot be read",
                    remedy="the control folder was edited or damaged; restore it or write to a new sink.path",
                )

    def _entries(self) -> Iterator[PlanRecord]:
        number = 1
        while True:
            path = self._layout.claim(self._job, number)
            data = self._store.read(path, max_bytes=MAX_RECORD_BYTES)
            if data is None:
                self._refuse_gap(path)
                return
            plan = parse(ClaimRecord, data, where=str(path)).plan
            if plan.job != self._job:
                raise ConflictError(f"{path}: a claim of another job", expected=self._job, found=plan.job)
            yield plan
            number += 1

    def _refuse_gap(self, missing: Path) -> None:
        # Rows of a lost claim would be labelled a second time.
        names = self._store.names(missing.parent)
        later = [name for name in names if _NUMBERED.fullmatch(name) and name > missing.name]
        if later and self._store.read(missing, max_bytes=MAX_RECORD_BYTES) is None:
            raise ConflictError(
                f"{missing}: a claim is gone",
                expected="a chain without a gap",
                found=f"{later[-1]} after it",
                remedy="restore it from a copy, or write to a new sink.path",
            )


def claimed_ranges(plans: Sequence[PlanRecord]) -> list[ClaimedRange]:
    """The rows that plans have claimed, as (file identity, first row, one past the last row)."""
    return [
        (plan.fragments[shard.fragment].identity, shard.row_start, shard.row_stop)
        for plan in plans
        for shard in plan.shards
    ]
