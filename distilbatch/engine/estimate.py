"""Tokens and time of work that is still to be done, from a small sample of its documents."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from distilbatch.commit.records import PlanRecord
from distilbatch.engine.heads import Heads
from distilbatch.engine.hooks import run_hook
from distilbatch.engine.job import Job
from distilbatch.engine.spec import DeviceSpec
from distilbatch.errors import SetupError
from distilbatch.inference.precision import resolve_device, resolve_precision
from distilbatch.pipeline import load_pipeline
from distilbatch.records import RowStatus, Shard
from distilbatch.source.listing import Listing
from distilbatch.source.reader import read_shard

MAX_SAMPLE_ROWS = 512
MAX_SAMPLE_SHARDS = 8
MAX_SAMPLE_CHARACTERS = 16 << 20
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
    count = min(len(shards), MAX_SAMPLE_SHARDS)
    chosen = [shards[(2 * i + 1) * len(shards) // (2 * count)] for i in range(count)]
    sample = _Sample(heads)
    for shard in chosen:
        sample.read(_texts(job, plan, shard, listing, max_rows=-(-MAX_SAMPLE_ROWS // count)), share=count)
    basis = f"a sample of {sample.rows} rows from {count} of {len(shards)} shards"
    speeds = _measure(heads, sample.texts) if device is not None else []
    if speeds:
        number_format = str(heads.dtype).removeprefix("torch.")
        basis += f"; models alone, measured in this process on {heads.device.type} {number_format}, for one worker"
    else:
        basis += f"; no time: {reason or 'the sample has no text to run the models on'}"
    scale = rows_left / max(1, sample.rows)
    computed = int(sum(sample.head_tokens) * scale)
    seconds = sum(tokens * scale / speed for tokens, speed in zip(sample.head_tokens, speeds, strict=False))
    return Estimate(
        sample_rows=sample.rows,
        sample_shards=count,
        tokens=int(sample.tokens * scale),
        tokens_computed=computed,
        truncated_share=sample.truncated / max(1, sample.rows),
        tokens_per_s=round(computed / seconds, 1) if speeds else None,
        seconds=round(seconds, 3) if speeds else None,
        basis=basis,
    )


def _usable_device(job: Job) -> tuple[DeviceSpec | None, str]:
    """The configured device; None, and why, where only the workers have it."""
    try:
        resolve_precision(job.device.precision, resolve_device(job.device.device))
    except SetupError as error:
        return None, str(error)
    return job.device, ""


def _texts(job: Job, plan: PlanRecord, shard: Shard, listing: Listing, *, max_rows: int) -> Iterator[pa.Array]:
    """The text columns of a shard's first rows, as the tokenizer would get them."""
    text_column = job.config.source.columns.text
    pipeline = load_pipeline(Path(job.config.pipeline)) if job.config.pipeline else None
    batches = read_shard(
        job.source_root,
        plan.fragments[shard.fragment],
        shard.row_start,
        min(shard.row_stop, shard.row_start + max_rows),
        schema=listing.schema,
        text_column=text_column,
        on_bad_rows="error-rows" if job.config.source.on_bad_file == "quarantine" else "fail",
    )
    for item in batches:
        batch = run_hook("before", pipeline.before if pipeline else None, item.batch, must_have=text_column)
        yield batch.column(text_column)


class _Sample:
    """Counts over sampled texts."""

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self.texts: list[str] = []
        self.rows = 0
        self.characters = 0
        self.tokens = 0
        self.truncated = 0
        self.head_tokens = [0] * len(heads.specs)

    def read(self, columns: Iterator[pa.Array], *, share: int) -> None:
        """Take the texts of a shard, within a ``share``-th of the memory a sample may take."""
        before = self.characters
        for column in columns:
            self._add(column)
            if self.characters - before > MAX_SAMPLE_CHARACTERS // share:
                break

    def _add(self, column: pa.Array) -> None:
        buffer = self._heads.tokenize(column)
        num_tokens = np.zeros(len(column), np.int64)
        truncated = np.array([status is RowStatus.TRUNCATED for status in buffer.documents.statuses], np.bool_)
        for head, tokens in enumerate(buffer.tokens):
            self.head_tokens[head] += int(tokens.lengths.sum())
            num_tokens[tokens.rows] = np.maximum(num_tokens[tokens.rows], tokens.lengths)
            truncated[tokens.rows] |= tokens.truncated
        texts = [text for text, count in zip(buffer.documents.texts, num_tokens, strict=True) if text and count]
        self.texts += texts
        self.characters += sum(len(text) for text in texts)
        self.rows += len(column)
        self.tokens += int(num_tokens.sum())
        self.truncated += int(truncated.sum())


def _measure(heads: Heads, texts: Sequence[str]) -> list[float]:
    """Run the models on more and more documents for some seconds.

    Returns:
        Tokens per second of each head, from the largest number of documents that was run; empty without any text.
    """
    # In another order than in the files, where neighbours are alike; always the same one.
    order = np.random.default_rng(0).permutation(len(texts))
    speeds: list[float] = []
    start, stop, last_s = 0, _FIRST_DOCUMENTS, 0.0
    began = time.perf_counter()
    # The first round also warms caches and kernels up; it only counts when there is no second one.
    while start < len(order) and time.perf_counter() - began + 2 * last_s <= MEASURE_S:
        round_start = time.perf_counter()
        chosen = pa.array([texts[index] for index in order[start:stop]], pa.large_string())
        outputs = heads.predict(heads.tokenize(chosen))
        speeds = [output.tokens_computed / max(output.seconds, 1e-9) for output in outputs]
        last_s = time.perf_counter() - round_start
        start, stop = stop, stop + 2 * (stop - start)
    return speeds
