"""Tokens and time of work that is still to be done, from a small sample of its documents."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from distilbatch.commit.records import PlanRecord
from distilbatch.engine.annotated import count_rows
from distilbatch.engine.heads import Heads
from distilbatch.engine.job import Job, worker_spec
from distilbatch.engine.sampling import choose_shards, read_sample
from distilbatch.engine.spec import DeviceSpec, ShardTask
from distilbatch.errors import SetupError
from distilbatch.inference.precision import resolve_device, resolve_precision
from distilbatch.records import Shard
from distilbatch.source.listing import Listing

MAX_SAMPLE_ROWS = 512
MAX_SAMPLE_BYTES = 16 << 20
MEASURE_S = 3.0
_FIRST_DOCUMENTS = 4


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a sample lets expect of the rows that are left.

    Args:
        sample_rows: Rows of the sample.
        sample_shards: Shards they were taken from.
        tokens: Tokens of the documents that are left, special tokens included.
        tokens_computed: Tokens that go through an encoder for them, summed over heads.
        truncated_share: Share of the sample, 0 to 1, that is cut off at ``max_length`` or ``max_doc_bytes``.
        tokens_per_s: Tokens computed per second by the models alone; None when they were not measured.
        seconds: Time of the models for all that is left, with one worker like the one measured; None like that.
        basis: Where these figures come from, for people.
    """

    sample_rows: int
    sample_shards: int
    tokens: int
    tokens_computed: int
    truncated_share: float
    tokens_per_s: float | None
    seconds: float | None
    basis: str


def estimate_work(
    job: Job, plan: PlanRecord, listing: Listing, shards: Sequence[Shard], *, rows_left: int, measure: bool
) -> Estimate | None:
    """Sample documents of some shards and scale what they need up to all rows that are left.

    Args:
        job: The job.
        plan: Its plan.
        listing: The source.
        shards: Shards that are left and can be read.
        rows_left: Rows to account for.
        measure: Also run the models for some seconds.

    Returns:
        None when there is no shard to sample.

    Raises:
        CheckpointError: A checkpoint cannot be used.
        ConfigError: The pipeline's hook failed.
        DataError: Rows cannot be read.
    """
    if not shards:
        return None
    device, reason = _usable_device(job) if measure else (None, "the models were not run")
    heads = Heads(
        job.heads,
        device=device or DeviceSpec(device="cpu", precision="float32"),
        max_doc_bytes=job.config.source.max_doc_bytes,
    )
    chosen = choose_shards(shards)
    count, max_rows = len(chosen), -(-MAX_SAMPLE_ROWS // len(chosen))
    spec = replace(worker_spec(job, plan), source_schema=listing.schema)
    sample = _Sample(heads)
    for shard in chosen:
        sample.read(read_sample(spec, ShardTask(shard, plan.fragments[shard.fragment]), max_rows), share=count)
    basis = f"a sample of {sample.rows} rows from {count} of {len(shards)} shards"
    speed = _measure(heads, sample.table) if device is not None else None
    if speed:
        number_format = heads.precision
        basis += f"; models alone, measured in this process on {heads.device.type} {number_format}, for one worker"
    else:
        basis += f"; no time: {reason or 'the sample has no text to run the models on'}"
    scale = rows_left / max(1, sample.rows)
    computed = int(sample.tokens_computed * scale)
    return Estimate(
        sample_rows=sample.rows,
        sample_shards=count,
        tokens=int(sample.tokens * scale),
        tokens_computed=computed,
        truncated_share=sample.truncated / max(1, sample.rows),
        tokens_per_s=round(speed, 1) if speed else None,
        seconds=round(computed / speed, 3) if speed else None,
        basis=basis,
    )


def _usable_device(job: Job) -> tuple[DeviceSpec | None, str]:
    """The configured device; None, and why, where only the workers have it."""
    try:
        resolve_precision(job.device.precision, resolve_device(job.device.device))
    except SetupError as error:
        return None, str(error)
    return job.device, ""


class _Sample:
    """Counts over sampled rows, and the rows that give tokens."""

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._batches: list[pa.RecordBatch] = []
        self.rows = 0
        self.bytes = 0
        self.tokens = 0
        self.tokens_computed = 0
        self.truncated = 0

    @property
    def table(self) -> pa.Table | None:
        """The rows that give tokens."""
        return pa.Table.from_batches(self._batches) if self._batches else None

    def read(self, batches: Iterator[pa.RecordBatch], *, share: int) -> None:
        """Take the rows of a shard, within a ``share``-th of the memory a sample may take."""
        before = self.bytes
        for batch in batches:
            self._add(batch)
            if self.bytes - before > MAX_SAMPLE_BYTES // share:
                break

    def _add(self, batch: pa.RecordBatch) -> None:
        buffer = self._heads.tokenize(dict(zip(batch.schema.names, batch.columns, strict=True)))
        counts = count_rows(buffer)
        kept = batch.filter(pa.array(counts.num_tokens > 0))
        if kept.num_rows:
            self._batches.append(kept)
        self.rows += batch.num_rows
        self.bytes += int(kept.nbytes)
        self.tokens += int(counts.num_tokens.sum())
        self.tokens_computed += self._heads.tokens_to_compute(buffer)
        self.truncated += int(counts.truncated.sum())


def _measure(heads: Heads, table: pa.Table | None) -> float | None:
    """Run the models on more and more rows for some seconds.

    Returns:
        Tokens per second over all heads, from the largest number of rows that was run; None without any text.
    """
    if table is None:
        return None
    # In another order than in the files, where neighbours are alike; always the same one.
    table = table.take(pa.array(np.random.default_rng(0).permutation(table.num_rows)))
    speed: float | None = None
    start, count, last_s = 0, _FIRST_DOCUMENTS, 0.0
    began = time.perf_counter()
    # The first round also warms caches and kernels up; it only counts when there is no second one.
    while start < table.num_rows and time.perf_counter() - began + 2 * last_s <= MEASURE_S:
        round_start = time.perf_counter()
        part = table.slice(start, count).combine_chunks()
        columns = {name: column.combine_chunks() for name, column in zip(part.column_names, part.columns, strict=True)}
        outputs = heads.predict(heads.tokenize(columns))
        seconds = sum(output.seconds for output in outputs)
        speed = sum(output.tokens_computed for output in outputs) / max(seconds, 1e-9)
        last_s = time.perf_counter() - round_start
        start, count = start + count, 2 * count
    return speed
