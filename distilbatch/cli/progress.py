"""How a run goes on: a bar on a terminal, elsewhere a line every half minute."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from typing_extensions import override

from distilbatch.cli.console import is_interactive
from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import PlanRecord
from distilbatch.commit.store import LocalStore
from distilbatch.engine.driver import Progress
from distilbatch.engine.spec import PoolEvent
from distilbatch.layout import SinkLayout
from distilbatch.records import ShardResult

LINE_EVERY_S = 30.0

_log = logging.getLogger("distilbatch")


@dataclass(slots=True)
class Meter:
    """Rows of the run that is under way.

    Args:
        run_key: Job and logical window; empty before the plan.
        total: Rows of the plan.
        done: Committed rows, those of earlier attempts included.
        fresh: Committed rows of this attempt.
        start: When this attempt began, on the monotonic clock.
    """

    run_key: str = ""
    total: int = 0
    done: int = 0
    fresh: int = 0
    start: float = field(default_factory=time.monotonic)

    @property
    def figures(self) -> str:
        """``1,024 of 20,000 rows, 312 rows/s, 1:00 left``."""
        text = f"{self.done:,} of {self.total:,} rows"
        seconds = time.monotonic() - self.start
        if not self.fresh or not seconds:
            return text
        per_s = self.fresh / seconds
        return f"{text}, {per_s:,.0f} rows/s, {clock((self.total - self.done) / per_s)} left"


def clock(seconds: float) -> str:
    """``4:05`` or ``1:04:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Reporter(Progress):
    """Counts what the driver tells and shows it.

    Args:
        sink: The run's sink: rows of earlier attempts are counted from its records.
        planned: Set when there is a plan, from where on a run can be resumed.
        bar: The bar to move; None where nobody watches.
    """

    def __init__(self, sink: SinkLayout, *, planned: threading.Event, bar: Bar | None = None) -> None:
        self.meter = Meter()
        self._sink = sink
        self._planned = planned
        self._bar = bar
        self._task: TaskID | None = None

    @override
    def planned(self, plan: PlanRecord, recorded: int) -> None:
        done = self._recorded_rows(plan) if recorded else 0
        self.meter = Meter(plan.run_key, plan.num_rows, done)
        self._planned.set()
        resumed = f", {recorded} of them committed before" if recorded else ""
        _log.info("%s: %s rows in %d shards%s", plan.run_key, f"{plan.num_rows:,}", len(plan.shards), resumed)
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(plan.run_key, total=plan.num_rows, completed=done, meter=self.meter)

    @override
    def shard_committed(self, result: ShardResult) -> None:
        self.meter.done += result.num_rows
        self.meter.fresh += result.num_rows
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.meter.done)

    @override
    def event(self, event: PoolEvent) -> None:
        if event.kind == "started":
            _log.info("started %s", event.message)
        else:
            where = "" if event.shard is None else f"shard {event.shard}: "
            _log.warning("%s%s", where, event.message)

    def line(self) -> str:
        """How far the run is, in a line; empty before the plan."""
        return f"{self.meter.run_key}: {self.meter.figures}" if self.meter.run_key else ""

    def _recorded_rows(self, plan: PlanRecord) -> int:
        recorded = RunLedger(LocalStore(), self._sink.run(plan.job, plan.window)).recorded()
        return sum(shard.num_rows for shard in plan.shards if shard.index in recorded)


@contextmanager
def reporting(sink: SinkLayout, *, planned: threading.Event) -> Iterator[Reporter]:
    """Show a run's progress on standard error as long as the block lasts; see :class:`Reporter`."""
    if is_interactive():
        name, figures = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[meter].figures}")
        console = Console(stderr=True)
        with Bar(name, BarColumn(), figures, console=console, transient=True, redirect_stdout=False) as bar:
            yield Reporter(sink, planned=planned, bar=bar)
        return
    reporter, over = Reporter(sink, planned=planned), threading.Event()
    thread = threading.Thread(target=_log_lines, args=(reporter, over), name="progress", daemon=True)
    thread.start()
    try:
        yield reporter
    finally:
        over.set()
        thread.join()


def _log_lines(reporter: Reporter, over: threading.Event) -> None:
    while not over.wait(LINE_EVERY_S):
        if line := reporter.line():
            _log.info("%s", line)
