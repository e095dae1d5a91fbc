"""From a job to its immutable plan: list, subtract what is claimed, cut into shards, claim (K1, K2)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from distilbatch.commit.claims import ClaimChain, claimed_ranges
from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import BadFileRecord, PlanRecord, encode_schema
from distilbatch.commit.store import Store
from distilbatch.engine.changes import refuse_changes
from distilbatch.engine.feasible import refuse_impossible
from distilbatch.engine.job import Job, model_fingerprint, new_plan
from distilbatch.engine.spec import max_row_bytes
from distilbatch.fingerprint import fingerprint
from distilbatch.records import Shard
from distilbatch.shards.planner import DEFAULT_MAX_TEXT_BYTES, plan_shards, suitable_max_rows, with_cut_texts
from distilbatch.shards.remaining import remaining_ranges
from distilbatch.source.listing import Listing, list_fragments


def list_source(job: Job) -> Listing:
    """K1: list the source as it is now.

    Raises:
        DataError: There is nothing to read, or files are bad and the config says ``fail``.
        ConfigError: A column is not there.
    """
    source = job.config.source
    return list_fragments(
        job.source_root,
        text_column=source.columns.text,
        columns=job.columns,
        partitioning=source.partitioning,
        glob=source.glob,
        on_bad_file=source.on_bad_file,
    )


def build_plan(job: Job, listing: Listing, earlier: Sequence[PlanRecord]) -> PlanRecord:
    """Plan the rows that no earlier run of the job has claimed.

    Args:
        job: The job.
        listing: The source.
        earlier: The plans in the job's chain of claims.
    """
    engine = job.config.engine
    place = str(job.source_root) if job.dated_source else ""
    earlier = [plan for plan in earlier if not place or plan.source_root == place]
    ranges = remaining_ranges(listing.fragments, claimed_ranges(earlier))
    max_rows = engine.shard_rows
    if not isinstance(max_rows, int):
        max_rows = suitable_max_rows(listing.fragments, ranges=ranges, limit=job.limit)
    row_bytes = max_row_bytes(job.heads, max_doc_bytes=job.config.source.max_doc_bytes)
    shards = plan_shards(
        with_cut_texts(listing.fragments, max_row_bytes=row_bytes),
        ranges=ranges,
        model_fingerprint=model_fingerprint(job),
        # The job too: two jobs may label the same rows into one sink, and published names come from the shard id.
        semantic_fingerprint=fingerprint([job.name, job.semantic, place]),
        max_rows=max_rows,
        max_text_bytes=DEFAULT_MAX_TEXT_BYTES,
        limit=job.limit,
    )
    return _with_used_fragments(job, listing, shards)


def earlier_job(job: Job, plan: PlanRecord) -> Job:
    """The job for an earlier window, to finish it.

    It reads where that window was planned: a ``source.path`` with a date in it is another folder for every window.
    A source that has moved since is read where the config says now.
    """
    source = job.config.source
    path = plan.source_root if os.path.exists(plan.source_root) else source.path
    update = {"path": path, "glob": plan.source_glob or source.glob}
    config = job.config.model_copy(update={"source": source.model_copy(update=update)})
    return replace(job, config=config, window=plan.window, limit=plan.limit)


def obtain_plan(job: Job, store: Store, *, list_files: Callable[[Job], Listing] = list_source) -> PlanRecord:
    """The run key's plan: the stored one, or a new one that is claimed and stored first.

    Args:
        job: The job.
        store: Where the records live.
        list_files: Lists the source, if there is no plan yet.

    Raises:
        ConflictError: The run key was planned with another model or config; the message says what differs.
        DistilbatchError: There is no plan, and what :func:`list_source` and :func:`refuse_impossible` raise.
    """
    ledger = RunLedger(store, job.layout)
    plan = ledger.plan()
    if plan is None:
        chain = ClaimChain(store, job.sink, job.name)
        claimed = next((entry for entry in chain.plans() if entry.window == job.window), None)
        if claimed is None:
            listing = list_files(job)
            refuse_impossible(job, listing)
            claimed = chain.claim(lambda earlier: build_plan(job, listing, earlier))
        plan = ledger.create_plan(claimed)
    refuse_changes(plan, job)
    return plan


def _with_used_fragments(job: Job, listing: Listing, shards: Sequence[Shard]) -> PlanRecord:
    # Only the files that have work: a plan of a nightly run stays small although the source grows for years.
    used = sorted({shard.fragment for shard in shards})
    position = {fragment: index for index, fragment in enumerate(used)}
    return new_plan(
        job,
        source_schema=encode_schema(listing.schema),
        fragments=tuple(listing.fragments[index] for index in used),
        shards=tuple(replace(shard, fragment=position[shard.fragment]) for shard in shards),
        bad_files=tuple(BadFileRecord(path=bad.path, reason=bad.reason) for bad in listing.bad_files),
    )
