"""The driver: plans, dispatches and is the only committer. Steps K0 to K14 of the commit protocol, in order."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timezone
from pathlib import Path

from typing_extensions import override

from distilbatch.commit.claims import ClaimChain
from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.ownership import Ownership
from distilbatch.commit.records import DeathRecord, PlanRecord
from distilbatch.commit.store import LocalStore, Store, refuse_two_file_systems
from distilbatch.config import Config, load_config, resolve_date, today_in
from distilbatch.engine import planning
from distilbatch.engine.changes import changed_files, refuse_changed_files
from distilbatch.engine.dead_letter import write_dead_letter
from distilbatch.engine.error_budget import refuse_too_many_errors
from distilbatch.engine.executor import Executor
from distilbatch.engine.executors import executor_for
from distilbatch.engine.failures import Failures
from distilbatch.engine.job import Job, resolve_job, worker_spec
from distilbatch.engine.settle import settle_precision
from distilbatch.engine.spec import PoolEvent, ShardFailure, ShardTask, WorkerSpec
from distilbatch.engine.summary import RunReport, summarize, to_metrics
from distilbatch.errors import BusyError, ConflictError, DataError, InterruptedRunError, StopError
from distilbatch.layout import RunLayout
from distilbatch.records import ShardResult
from distilbatch.source.listing import Listing

ConfigLike = Config | Path | str | Mapping[str, object]

COMMITTED = "committed"
ALREADY_COMMITTED = "already committed"

_log = logging.getLogger("distilbatch")


class Progress:
    """Told how a run goes on; the default does nothing. All calls come from the driver's thread."""

    def planned(self, plan: PlanRecord, recorded: int) -> None:
        """The plan is fixed and ``recorded`` of its shards are committed already."""

    def shard_committed(self, result: ShardResult) -> None:
        """A shard of this attempt is committed."""

    def event(self, event: PoolEvent) -> None:
        """A worker started, died or was replaced."""


def run(
    config: ConfigLike,
    *,
    day: str | date | None = None,
    limit: int | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> RunReport:
    """Label a table: every planned row is in the committed output exactly once when this returns.

    Running it again after any failure resumes; running it again after success does nothing.

    Args:
        config: A config, its file, or the mapping such a file would hold.
        day: The logical window: ``today``, ``yesterday``, ``YYYY-MM-DD`` or a date; None for a run without one.
            Each window labels the rows that no earlier window of the job has claimed.
        limit: Label this many rows, as a sample; a later run labels the others.
        overrides: ``section.key=value`` settings that win over the config.
        progress: Told how the run goes on.
        stop: Once set, the run ends at a resumable point.

    Raises:
        DistilbatchError: See :mod:`distilbatch.errors`; every kind names its reaction and its exit code.
    """
    job = resolve_run(config, day=day, limit=limit, overrides=overrides)
    return Driver(job, progress=progress, stop=stop).run()


def resolve_run(
    config: ConfigLike, *, day: str | date | None = None, limit: int | None = None, overrides: Sequence[str] = ()
) -> Job:
    """Load a config and resolve it; see :func:`run` for the arguments."""
    if not isinstance(config, Config):
        config = load_config(config, overrides=overrides, environ=os.environ)
    if isinstance(day, str):
        day = resolve_date(day, today=today_in(config.job.timezone, now=datetime.now(timezone.utc)))
    return resolve_job(config, day=day, limit=limit)


class Driver:
    """Runs one job to its end.

    Args:
        job: The job.
        store: Where records and published files live.
        progress: Told how the run goes on.
        stop: Once set, the run ends at a resumable point.
        make_executor: Builds what runs the shards; by default what ``engine.type`` names.
        list_files: Lists the source.
        make_owner: Builds the ownership of a run key.
    """

    def __init__(
        self,
        job: Job,
        *,
        store: Store | None = None,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
        make_executor: Callable[[Job, WorkerSpec], Executor] | None = None,
        list_files: Callable[[Job], Listing] = planning.list_source,
        make_owner: Callable[[Store, RunLayout], Ownership] = Ownership,
    ) -> None:
        self._job = job
        self._store = store or LocalStore()
        self._progress = progress or Progress()
        self._stop = stop or threading.Event()
        self._make_executor = make_executor or executor_for
        self._list_files = list_files
        self._listing: Listing | None = None  # of the window that is being run
        self._make_owner = make_owner

    def run(self) -> RunReport:
        """Finish what earlier windows left unfinished, then this one; see :func:`run`.

        Raises:
            ConflictError, DataError: An earlier window cannot be finished. This one was run all the same: its rows
                are others, for no two windows ever claim the same.
        """
        earlier: list[RunReport] = []
        blocked: list[tuple[str, StopError]] = []
        for job in self._unfinished_windows():
            try:
                report = self._finish(job)
            except (ConflictError, DataError) as error:
                _log.warning("%s cannot be finished: %s", job.run_key, error)
                blocked.append((job.run_key, error))
            else:
                earlier += [] if report is None else [report]
        report = self._already_committed(self._job) if self._is_done(self._job) else self._run_window(self._job)
        if blocked:
            raise _blocked(blocked, report)
        return replace(report, earlier=tuple(earlier))

    def _is_done(self, job: Job) -> bool:
        return RunLedger(self._store, job.layout).done() is not None

    def _already_committed(self, job: Job) -> RunReport:
        ledger = RunLedger(self._store, job.layout)
        plan = planning.obtain_plan(job, self._store)
        report = summarize(ledger, plan, state=ALREADY_COMMITTED, seconds=0.0, rows_this_attempt=0)
        if self._store.size(job.layout.metrics) is None:
            self._derive(job, plan, ledger, report)  # the run died right after K13
        ledger.clean()
        return report

    def _unfinished_windows(self) -> list[Job]:
        """Earlier windows of the chain that hold claims without having published; their rows belong to nobody else."""
        chain = ClaimChain(self._store, self._job.sink, self._job.name)
        jobs = []
        for plan in chain.plans():
            if plan.window == self._job.window:
                break
            job = planning.earlier_job(self._job, plan)
            if not self._is_done(job):
                jobs.append(job)
        return jobs

    def _finish(self, job: Job) -> RunReport | None:
        _log.warning("%s is unfinished; finishing it first", job.run_key)
        try:
            return self._run_window(job)
        except BusyError as error:
            # Alive elsewhere: its claims stay its own, and this window has none of its rows.
            _log.warning("%s", error)
            return None

    def _run_window(self, job: Job) -> RunReport:
        start = time.perf_counter()
        self._listing = None
        refuse_two_file_systems(job.sink)
        plan = planning.obtain_plan(job, self._store, list_files=self._list_source)  # K2
        ledger = RunLedger(self._store, job.layout)
        owner = self._make_owner(self._store, job.layout)
        epoch = owner.take()  # K3
        try:
            rows = 0
            if ledger.commit() is None:
                rows = self._label(job, plan, ledger, owner)  # K4 to K8
                refuse_too_many_errors(job, plan, ledger)
                ledger.decide(plan, epoch=epoch, run_id=owner.run_id)  # K10, K11
            ledger.publish(plan)  # K12, K13
            seconds = time.perf_counter() - start
            report = summarize(ledger, plan, state=COMMITTED, seconds=seconds, rows_this_attempt=rows)
            self._derive(job, plan, ledger, report)  # K14
            ledger.clean()
            return report
        finally:
            owner.release()

    def _derive(self, job: Job, plan: PlanRecord, ledger: RunLedger, report: RunReport) -> None:
        """Write what follows from the records; the figures last, so that with them everything is there."""
        write_dead_letter(job, plan, ledger, plan.schema)
        self._store.replace(job.layout.metrics, to_metrics(report))

    def _list_source(self, job: Job) -> Listing:
        self._listing = self._list_files(job)
        return self._listing

    def _label(self, job: Job, plan: PlanRecord, ledger: RunLedger, owner: Ownership) -> int:
        """Process the shards without a record; returns the rows of this attempt.

        Raises:
            DistilbatchError: Shards failed; the message names them. The others are committed.
            InterruptedRunError: The run was stopped.
        """
        recorded = ledger.recorded()
        todo = [shard for shard in plan.shards if shard.index not in recorded]
        self._progress.planned(plan, len(plan.shards) - len(todo))
        if not todo:
            return 0
        fragments = {shard.fragment for shard in todo}
        if self._listing is None or changed_files(plan, self._listing, fragments):
            # Not our own plan; what we listed before it was made need not have its files.
            refuse_changed_files(plan, self._list_source(job), fragments)
        crashing = ledger.crashing_rows(plan)
        tasks = [ShardTask(shard, plan.fragments[shard.fragment], crashing.get(shard.index, {})) for shard in todo]
        precision = settle_precision(job, plan, ledger, stop=self._stop)
        executor = self._make_executor(job, worker_spec(job, plan, precision=precision))
        rows, failures = 0, Failures(job.run_key)
        for outcome in executor.run(tasks, stop=_WindowStop(self._stop)):
            if isinstance(outcome, PoolEvent):
                if outcome.shard is not None and outcome.rows:
                    ledger.record_crashing_rows(_death(plan, outcome.shard, outcome))
                self._progress.event(outcome)
            elif isinstance(outcome, ShardFailure):
                failures.add(outcome, committed_rows=rows)
            else:
                ledger.commit_shard(plan, outcome)
                rows += outcome.num_rows
                self._progress.shard_committed(outcome)
                self._stop_if_superseded(owner, job)
        if self._stop.is_set():
            left = len(plan.shards) - len(ledger.recorded())
            raise InterruptedRunError(
                f"{job.run_key} was stopped",
                found=f"{left} of {len(plan.shards)} shards left",
                remedy="run the same command again",
            )
        failures.raise_any()
        return rows

    def _stop_if_superseded(self, owner: Ownership, job: Job) -> None:
        if owner.superseded():
            raise BusyError(
                f"{job.run_key}: another run took over", remedy="let it finish; what was committed here counts"
            )


def _death(plan: PlanRecord, index: int, event: PoolEvent) -> DeathRecord:
    return DeathRecord(index=index, plan_id=plan.plan_id, rows=event.rows, message=event.message, error=event.error)


def _blocked(blocked: Sequence[tuple[str, StopError]], report: RunReport) -> StopError:
    """The error that ends a run whose own window is committed, while earlier ones wait for a person."""
    (run_key, first), *others = blocked
    more = "".join(f"; {other} is blocked too: {error}" for other, error in others)
    return type(first)(
        f"{report.run_key} is {report.state}, but the earlier {run_key} cannot be finished: {first.what}",
        expected=first.expected,
        found=first.found + more,
        remedy=first.remedy,
    )


class _WindowStop(threading.Event):
    """The stop of one window within a run: an executor that gives up sets it, and stops nobody else by that."""

    def __init__(self, run: threading.Event) -> None:
        super().__init__()
        self._run = run

    @override
    def is_set(self) -> bool:
        return super().is_set() or self._run.is_set()
