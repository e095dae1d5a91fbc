"""How far the runs of a sink are, from their records alone; looks, waits for nothing and writes nothing."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.ownership import ALIVE, UNKNOWN, OwnerState, owner_state
from distilbatch.commit.records import MAX_RECORD_BYTES
from distilbatch.commit.store import LocalStore, Store
from distilbatch.layout import RunLayout, SinkLayout
from distilbatch.records import RowStatus
from distilbatch.report.runs import Findings, FoundRun, find_runs

PLANNED = "planned"
RUNNING = "running"
INTERRUPTED = "interrupted"
COMMITTED = "committed"
PUBLISHED = "published"
DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Owner:
    """Who worked on a run key last.

    Args:
        host: The machine.
        pid: The driver's process there.
        epoch: How often the run was started, this time included.
        liveness: ``alive``, ``released``, ``dead``, or ``unknown`` for one on another machine.
    """

    host: str
    pid: int
    epoch: int
    liveness: str


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How far a run is.

    Args:
        run_key: Job and logical window.
        state: ``planned``: nobody has started; ``running``: its owner is alive, or on another machine and has not
            released it; ``interrupted``: run the same command again; ``committed``: decided, publishing is not
            finished; ``published``: done; ``damaged``: see ``problem``.
        shards_done: Committed shards.
        shards: All its shards.
        rows_done: Rows of the committed shards.
        rows: All its rows.
        error_rows: Rows of the committed shards that could not be annotated.
        owner: Who worked on it last; None when nobody did.
        metrics: Figures of its last finished attempt; None when there are none.
        problem: What is wrong with its records.
    """

    run_key: str
    state: str
    shards_done: int = 0
    shards: int = 0
    rows_done: int = 0
    rows: int = 0
    error_rows: int = 0
    owner: Owner | None = None
    metrics: dict[str, Any] | None = None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON values."""
        return asdict(self)


def status(sink: Path) -> tuple[RunStatus, ...]:
    """Tell how far every run below a sink is.

    Args:
        sink: The folder that ``sink.path`` names.

    Returns:
        One entry for each run key; by job, in the order in which runs claimed their rows.

    Raises:
        DataError: The folder is not a sink, or no run was ever planned there.
    """
    store = LocalStore()
    # Damage of a chain as a whole is for verify to report; damage of a run shows in its entry.
    return tuple(run_status(store, run) for run in find_runs(store, SinkLayout(sink), Findings()))


def run_status(store: Store, run: FoundRun) -> RunStatus:
    """Tell how far one run is."""
    findings = Findings()
    ledger = RunLedger(store, run.layout)
    plan = findings.read(ledger.plan) or run.claim
    owner = findings.read(partial(owner_state, store, run.layout))
    decided, done = findings.read(ledger.commit), findings.read(ledger.done)
    rows_done, shards_done, statuses = 0, 0, Counter[str]()
    for index in sorted(ledger.recorded()):
        record = findings.read(partial(ledger.shard, index))
        if record is not None:
            shards_done += 1
            rows_done += record.num_rows
            statuses.update(record.statuses)
    if findings.problems:
        state = DAMAGED
    elif done is not None:
        state = PUBLISHED
    elif decided is not None:
        state = COMMITTED
    else:
        state = _open_state(owner)
    return RunStatus(
        run_key=run.run_key,
        state=state,
        shards_done=shards_done,
        shards=0 if plan is None else len(plan.shards),
        rows_done=rows_done,
        rows=0 if plan is None else plan.num_rows,
        error_rows=statuses[RowStatus.ERROR.value],
        owner=None if owner is None else _describe(owner),
        metrics=_metrics(store, run.layout),
        problem="\n".join(findings.problems),
    )


def _open_state(owner: OwnerState | None) -> str:
    if owner is None:
        return PLANNED
    return RUNNING if owner.liveness in {ALIVE, UNKNOWN} else INTERRUPTED


def _describe(owner: OwnerState) -> Owner:
    record = owner.record
    return Owner(record.host.split("|")[0], record.pid, record.epoch, owner.liveness)


def _metrics(store: Store, layout: RunLayout) -> dict[str, Any] | None:
    # Derived figures: without them, or with damaged ones, nothing is wrong.
    data = store.read(layout.metrics, max_bytes=MAX_RECORD_BYTES)
    try:
        metrics = None if data is None else json.loads(data)
    except ValueError:
        return None
    return metrics if isinstance(metrics, dict) else None
