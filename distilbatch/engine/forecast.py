"""What a run would do and about how long it would take, without doing or writing any of it.

The counts are those of the very functions a run plans with; tokens and time are estimates, see estimate.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any

from distilbatch.commit.claims import ClaimChain
from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import PlanRecord
from distilbatch.commit.store import LocalStore
from distilbatch.engine.changes import refuse_changes
from distilbatch.engine.driver import ConfigLike, resolve_run
from distilbatch.engine.estimate import Estimate, estimate_work
from distilbatch.engine.feasible import refuse_impossible
from distilbatch.engine.job import Job
from distilbatch.engine.planning import build_plan, list_source
from distilbatch.engine.settle import foresee_precision
from distilbatch.records import Shard
from distilbatch.shards.planner import text_bytes_of
from distilbatch.source.listing import Listing

NEW = "new"
RESUME = "resume"
PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What a run would do.

    Args:
        run_key: Job and logical window.
        state: ``new``; ``resume`` when it was planned before; ``published`` when there is nothing left to do.
        plan_id: Identity of the plan.
        files: Source files with work.
        source_bytes: Size of these files.
        text_bytes: Uncompressed bytes of the text of all its rows, as far as footers tell.
        rows: Rows the run has to account for.
        shards: Shards they are cut into.
        rows_left: Rows of the shards that are not committed.
        shards_left: Shards that are not committed.
        rows_claimed: Rows that other runs of the job have claimed; this one leaves them out.
        output_files: Files that will be published for all its shards.
        output_files_exact: False when ``partition_by`` may split shards: then there are at least so many.
        model_fingerprints: Identity of each annotation's checkpoint.
        model_sources: Hub id and commit of each annotation whose model comes from the hub.
        precision: What it computes in, or is asked to where that is not settled.
        precision_basis: Why, or how it will be settled.
        bad_files: Unreadable source files that are left out, with the reason.
        changed_files: Planned files that have changed or are gone: the run would refuse to go on.
        unfinished: Earlier runs of the job that a run finishes first.
        estimate: Tokens and time; None when nothing is left.
    """

    run_key: str
    state: str
    plan_id: str
    files: int
    source_bytes: int
    text_bytes: int
    rows: int
    shards: int
    rows_left: int
    shards_left: int
    rows_claimed: int
    output_files: int
    output_files_exact: bool
    model_fingerprints: dict[str, str]
    model_sources: dict[str, str]
    precision: str
    precision_basis: str
    bad_files: tuple[str, ...]
    changed_files: tuple[str, ...]
    unfinished: tuple[str, ...]
    estimate: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


def plan(
    config: ConfigLike,
    *,
    day: str | date | None = None,
    limit: int | None = None,
    overrides: Sequence[str] = (),
    forecast: bool = True,
) -> PlanReport:
    """Tell what :func:`distilbatch.run` would do with the same arguments. Writes nothing anywhere.

    Args:
        config: A config, its file, or the mapping such a file would hold.
        day: The logical window, as for a run.
        limit: Most rows, as for a run.
        overrides: ``section.key=value`` settings that win over the config.
        forecast: Also run the models for some seconds, to forecast the time.

    Raises:
        DistilbatchError: What a run would raise before its first shard: config, checkpoint, source or conflict.
    """
    job = resolve_run(config, day=day, limit=limit, overrides=overrides)
    store = LocalStore()
    ledger = RunLedger(store, job.layout)
    chain = ClaimChain(store, job.sink, job.name).plans()
    known = ledger.plan() or next((entry for entry in chain if entry.window == job.window), None)
    if known is not None:
        refuse_changes(known, job)
    if known is not None and (done := ledger.done()) is not None:
        report = _report(job, known, chain, state=PUBLISHED, left=())
        return replace(report, output_files=len(done.files), output_files_exact=True)
    listing = list_source(job)
    if known is None:
        refuse_impossible(job, listing)
    planned = known or build_plan(job, listing, chain)
    recorded = ledger.recorded()
    left = tuple(shard for shard in planned.shards if shard.index not in recorded)
    changed = _changed(planned, listing, {shard.fragment for shard in left})
    report = _report(job, planned, chain, state=NEW if known is None else RESUME, left=left)
    usable = [shard for shard in left if planned.fragments[shard.fragment].path not in changed]
    estimate = estimate_work(job, planned, listing, usable, rows_left=report.rows_left, measure=forecast)
    return replace(report, changed_files=changed, estimate=estimate)


def _report(
    job: Job, planned: PlanRecord, chain: Sequence[PlanRecord], *, state: str, left: Sequence[Shard]
) -> PlanReport:
    ledgers = {entry.window: RunLedger(LocalStore(), job.sink.run(job.name, entry.window)) for entry in chain}
    earlier = [entry.window for entry in chain]
    if job.window in earlier:
        earlier = earlier[: earlier.index(job.window)]
    unfinished = [window for window in earlier if state != PUBLISHED and ledgers[window].done() is None]
    partition_by = set(job.config.sink.partition_by)
    precision, basis = foresee_precision(job, planned, RunLedger(LocalStore(), job.layout))
    return PlanReport(
        run_key=planned.run_key,
        state=state,
        plan_id=planned.plan_id,
        files=len(planned.fragments),
        source_bytes=sum(fragment.size_bytes for fragment in planned.fragments),
        text_bytes=sum(text_bytes_of(planned.fragments[shard.fragment], shard) for shard in planned.shards),
        rows=planned.num_rows,
        shards=len(planned.shards),
        rows_left=sum(shard.num_rows for shard in left),
        shards_left=len(left),
        rows_claimed=sum(entry.num_rows for entry in chain if entry.window != job.window),
        output_files=len(planned.shards),
        # A partition key of the source has one value in a file, hence in a shard.
        output_files_exact=all(partition_by <= dict(fragment.partition).keys() for fragment in planned.fragments),
        model_fingerprints=dict(job.model_fingerprints),
        model_sources=job.model_sources,
        precision=precision,
        precision_basis=basis,
        bad_files=tuple(f"{bad.path}: {bad.reason}" for bad in planned.bad_files),
        changed_files=(),
        unfinished=tuple(f"{job.name}/{window}" for window in unfinished),
        estimate=None,
    )


def _changed(planned: PlanRecord, listing: Listing, fragments: set[int]) -> tuple[str, ...]:
    present = {fragment.identity for fragment in listing.fragments}
    needed = (planned.fragments[index] for index in sorted(fragments))
    return tuple(fragment.path for fragment in needed if fragment.identity not in present)
