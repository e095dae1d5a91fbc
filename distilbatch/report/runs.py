"""Finds the run keys of a sink by its plans and its chains of claims; damage is a finding here, never an end."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import MAX_RECORD_BYTES, ClaimRecord, PlanRecord, parse
from distilbatch.commit.store import Store
from distilbatch.errors import ConflictError, DataError, SetupError
from distilbatch.layout import RunLayout, SinkLayout
from distilbatch.oserrors import what_is_at

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run key that left records.

    Args:
        layout: Its paths.
        plan: ``plan.json``; None when there is none or it is damaged.
        claim: The plan in the job's chain of claims; None when there is none.
    """

    layout: RunLayout
    plan: PlanRecord | None
    claim: PlanRecord | None

    @property
    def run_key(self) -> str:
        """Job and logical window, as the folders say."""
        return f"{self.layout.job}/{self.layout.window}"


@dataclass(slots=True)
class Findings:
    """Collects what is wrong."""

    problems: list[str] = field(default_factory=list)

    def add(self, what: str, *, expected: str = "", found: str = "", remedy: str = "") -> None:
        """Note a problem; the arguments are those of our errors, and so is the text."""
        self.problems.append(str(DataError(what, expected=expected, found=found, remedy=remedy)))

    def read(self, read: Callable[[], T]) -> T | None:
        """Call ``read``; a damaged record is noted and gives None."""
        try:
            return read()
        except (ConflictError, SetupError) as error:
            self.problems.append(str(error))
            return None


def find_runs(store: Store, sink: SinkLayout, findings: Findings) -> list[FoundRun]:
    """List the run keys below a sink: by job, in the order in which they claimed their rows.

    Args:
        store: Where the records live.
        sink: The sink.
        findings: Told about damaged records and gaps in a chain of claims.

    Raises:
        DataError: The folder is not a sink, or no run was ever planned there.
    """
    if not os.path.isdir(sink.root):
        expected, found = "the folder that sink.path names", what_is_at(sink.root)
        raise DataError(str(sink.root), expected=expected, found=found, remedy="check the path")
    runs: list[FoundRun] = []
    for folder in sorted(path for path in sink.control.glob("*") if path.is_dir()):
        claims = _claims(store, sink, folder.name, findings)
        planned = [path.parent.name for path in sink.plans() if path.parent.parent == folder]
        for window in dict.fromkeys([*claims, *planned]):
            layout = sink.run(folder.name, window)
            plan = findings.read(RunLedger(store, layout).plan)
            runs.append(FoundRun(layout, plan, claims.get(window)))
    if not runs and not findings.problems:
        raise DataError(
            f"{sink.root}: no run was ever planned here",
            expected=f"a folder that distilbatch run wrote, with {sink.control.name}/",
            remedy="check the path",
        )
    return runs


def _claims(store: Store, sink: SinkLayout, job: str, findings: Findings) -> dict[str, PlanRecord]:
    """The plans of a job's chain by window; a gap hides what follows from the engine, so it is a problem."""
    names = [name for name in store.names(sink.claims(job)) if name.endswith(".json") and name[:-5].isdigit()]
    claims: dict[str, PlanRecord] = {}
    previous = 0
    for number in sorted(int(name[:-5]) for name in names):
        if number != previous + 1:
            findings.add(
                f"{sink.claim(job, previous + 1)}: a claim is missing",
                expected="claims numbered without a gap",
                found=f"{number:06d} after {previous:06d}",
                remedy="restore it; claims are never withdrawn",
            )
        previous = number
        path = sink.claim(job, number)
        claim = findings.read(partial(_read_claim, store, path))
        if claim is None:
            continue
        if claim.job != job or claim.window in claims:
            findings.add(
                f"{path}: this claim does not belong here",
                expected=f"job {job!r} and a window of its own",
                found=claim.run_key,
            )
        else:
            claims[claim.window] = claim
    return claims


def _read_claim(store: Store, path: Path) -> PlanRecord | None:
    data = store.read(path, max_bytes=MAX_RECORD_BYTES)
    return None if data is None else parse(ClaimRecord, data, where=str(path)).plan
