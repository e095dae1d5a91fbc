"""Verifies a sink: every planned row is published exactly once, and files and records say the same.

Needs neither the source nor the model, and nothing of the code that wrote the files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from distilbatch.commit.claims import claimed_ranges
from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import DoneRecord, PlanRecord
from distilbatch.commit.store import LocalStore, Store
from distilbatch.config import Config, load_config
from distilbatch.errors import ConfigError, DataError
from distilbatch.fingerprint import sha256_footer
from distilbatch.layout import SinkLayout
from distilbatch.oserrors import what_is_at
from distilbatch.report.published import PublishedRun, check_plan, published_files
from distilbatch.report.runs import Findings, FoundRun, find_runs
from distilbatch.report.status import COMMITTED, DAMAGED, PUBLISHED, RUNNING, run_status

_TEMPLATE = "{{"
_TEMPORARY = ".tmp"


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """One run key that was looked at.

    Args:
        run_key: Job and logical window.
        state: ``published`` for a finished run, whose files were all checked, ``damaged`` for one whose records
            cannot be used; else it is unfinished, see :class:`distilbatch.report.status.RunStatus`.
        rows: Rows read from its published files.
        files: Files it published.
    """

    run_key: str
    state: str
    rows: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found.

    Args:
        sink: The folder.
        runs: The run keys, by job, in the order in which they claimed their rows.
        rows: Rows read from published files.
        files: Published files.
        problems: What is wrong; empty when every finished run is whole.
        unfinished: Runs that are not finished, each with the remedy.
        notes: Worth knowing, and no fault of the output: such as source files that have changed since.
    """

    sink: str
    runs: tuple[CheckedRun, ...]
    rows: int
    files: int
    problems: tuple[str, ...]
    unfinished: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every run is finished and nothing is wrong."""
        return not self.problems and not self.unfinished

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {"ok": self.ok, **asdict(self)}


def verify(target: Path | str | Config) -> VerifyReport:
    """Check a sink: records, checksums, footers, and that every planned row is published exactly once.

    Args:
        target: The sink's folder, or a config or its file, whose ``sink.path`` is taken.

    Raises:
        DataError: There is no such folder, or no run was ever planned there.
        ConfigError: The config is wrong, or its ``sink.path`` depends on the date.
    """
    sink = SinkLayout(_sink_folder(target))
    store, findings = LocalStore(), Findings()
    found = find_runs(store, sink, findings)
    verifier = _Verifier(store, sink, findings)
    runs = tuple(verifier.check_run(run) for run in found)
    verifier.check_claims(found)
    verifier.check_folder()
    return VerifyReport(
        sink=str(sink.root),
        runs=runs,
        rows=sum(run.rows for run in runs),
        files=sum(run.files for run in runs),
        problems=tuple(dict.fromkeys(findings.problems)),
        unfinished=tuple(verifier.unfinished),
        notes=tuple(verifier.notes),
    )


def _sink_folder(target: Path | str | Config) -> Path:
    if not isinstance(target, Config):
        path = Path(target)
        if os.path.isdir(path):
            return path
        if not os.path.exists(path):
            expected = "a sink's folder or a config file"
            found = what_is_at(path)
            raise DataError(str(path), expected=expected, found=found, remedy="check the path")
        target = load_config(path, environ=os.environ)
    if _TEMPLATE in target.sink.path:
        raise ConfigError(
            f"sink.path: {target.sink.path!r} is another folder for each run", remedy="name the folder to verify"
        )
    return Path(target.sink.path)


class _Verifier:
    """Checks the runs one after the other and remembers who owns which file."""

    def __init__(self, store: Store, sink: SinkLayout, findings: Findings) -> None:
        self._store = store
        self._sink = sink
        self._findings = findings
        self._owners: dict[str, str] = {}
        self.unfinished: list[str] = []
        self.notes: list[str] = []

    def check_run(self, run: FoundRun) -> CheckedRun:
        """Check one run; what it published becomes its own."""
        ledger = RunLedger(self._store, run.layout)
        problems_before = len(self._findings.problems)
        done = self._findings.read(ledger.done)
        done_is_damaged = len(self._findings.problems) > problems_before
        plan = run.plan or run.claim
        self._own(run, self._visible_files(ledger, done))
        if plan is None or not check_plan(plan, job=run.layout.job, window=run.layout.window, findings=self._findings):
            return CheckedRun(run.run_key, DAMAGED)
        self._note_source(plan)
        if done is None:
            if not done_is_damaged:
                return self._unfinished(run)
            return CheckedRun(run.run_key, DAMAGED)
        if run.plan is None and not run.layout.plan.exists():
            self._findings.add(f"{run.layout.plan}: the plan is gone", remedy="restore it from a copy")
        published = PublishedRun(ledger, plan, done, self._findings)
        published.check()
        return CheckedRun(run.run_key, PUBLISHED, published.rows, len(done.files))

    def check_claims(self, runs: Sequence[FoundRun]) -> None:
        """Plans agree with the claims, and no two runs of a job have a row of the same file in common."""
        by_job: dict[str, list[FoundRun]] = {}
        for run in runs:
            by_job.setdefault(run.layout.job, []).append(run)
            # One that cannot be compared was reported when it was read.
            if run.plan is not None and run.claim is None:
                self._findings.add(f"{run.run_key}: its plan is not in the job's chain of claims")
            elif run.plan is not None and run.claim is not None and run.plan != run.claim:
                self._findings.add(f"{run.run_key}: plan.json is not the plan that was claimed")
        for job_runs in by_job.values():
            self._check_overlaps(job_runs)

    def check_folder(self) -> None:
        """Below ``data/`` lie the files that runs published and nothing else."""
        for folder, folders, names in os.walk(self._sink.data):
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            for name in sorted([*names, *links]):
                path = (Path(folder) / name).relative_to(self._sink.root).as_posix()
                if name.endswith(_TEMPORARY):
                    self._findings.add(f"{path}: a temporary file among the published ones", remedy="remove it")
                elif path not in self._owners:
                    self._findings.add(
                        f"{path}: no run published this file", remedy="move it away: readers take it for a result"
                    )

    def _visible_files(self, ledger: RunLedger, done: DoneRecord | None) -> list[str]:
        """What may be visible of a run: all that ``done`` lists, or, once the run is decided, all that is elected."""
        if done is not None:
            return [file.path for file in done.files]
        # Damaged records are reported elsewhere; what they should have said is taken from the others.
        quiet = Findings()
        if quiet.read(ledger.commit) is None and not quiet.problems and not ledger.layout.done.exists():
            return []
        paths = []
        for index in sorted(ledger.recorded()):
            record = quiet.read(partial(ledger.shard, index))
            if record is not None:
                paths += [file.path for file in published_files(ledger, record, quiet)]
        return paths

    def _own(self, run: FoundRun, paths: Sequence[str]) -> None:
        for path in paths:
            owner = self._owners.setdefault(path, run.run_key)
            if owner != run.run_key:
                self._findings.add(f"{path}: two runs have published this file", found=f"{owner} and {run.run_key}")

    def _unfinished(self, run: FoundRun) -> CheckedRun:
        status = run_status(self._store, run)
        if status.problem:
            self._findings.problems += status.problem.split("\n")
        progress = f"{status.shards_done} of {status.shards} shards committed"
        if status.state == RUNNING and status.owner is not None:
            remedy = f"process {status.owner.pid} on {status.owner.host} works on it; wait for it"
        elif status.state == COMMITTED:
            remedy = "publishing is not finished; run the same command again"
        else:
            remedy = "run the same command again"
        self.unfinished.append(f"{run.run_key}: unfinished ({status.state}); {progress}; {remedy}")
        return CheckedRun(run.run_key, status.state)

    def _check_overlaps(self, runs: Sequence[FoundRun]) -> None:
        # A plan that is damaged beyond use names no rows to compare.
        usable = []
        for run in runs:
            plan = run.plan or run.claim
            if plan and check_plan(plan, job=run.layout.job, window=run.layout.window, findings=Findings()):
                usable.append((run.run_key, plan))
        by_file: dict[tuple[str, str, int, str], list[tuple[int, int, str]]] = {}
        for run_key, plan in usable:
            for identity, start, stop in claimed_ranges([plan]):
                # Windows with a dated source.path may have equal files in different folders.
                by_file.setdefault((plan.source_root, *identity), []).append((start, stop, run_key))
        for (_, path, _, _), ranges in by_file.items():
            ranges.sort()
            for (start, stop, first), (next_start, next_stop, second) in pairwise(ranges):
                if next_start < stop:
                    self._findings.add(
                        f"{path}: rows are claimed twice",
                        expected="each row in one shard of one run",
                        found=f"[{start}, {stop}) of {first} and [{next_start}, {next_stop}) of {second}",
                    )

    def _note_source(self, plan: PlanRecord) -> None:
        if plan.bad_files:
            names = ", ".join(bad.path for bad in plan.bad_files[:3]) + (", ..." if len(plan.bad_files) > 3 else "")
            self.notes.append(f"{plan.run_key}: {len(plan.bad_files)} unreadable source files were left out: {names}")
        root = Path(plan.source_root)
        if not os.path.exists(root):
            self.notes.append(f"{plan.run_key}: the source {plan.source_root} is not there (seen from this folder)")
            return
        gone, changed = 0, 0
        for fragment in plan.fragments:
            path = root if os.path.isfile(root) else root / fragment.path
            try:
                size_bytes = path.stat().st_size
                same = size_bytes == fragment.size_bytes and sha256_footer(path, size_bytes) == fragment.footer_sha256
            except OSError:
                gone += 1
            else:
                changed += not same
        for count, what in ((gone, "are gone"), (changed, "have changed")):
            if count:
                total = len(plan.fragments)
                self.notes.append(f"{plan.run_key}: {count} of {total} source files {what} since they were planned")
