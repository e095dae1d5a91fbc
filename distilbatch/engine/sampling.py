"""A look at a job's own documents before the work: the first rows of shards from all over the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from distilbatch.engine.hooks import run_hook
from distilbatch.engine.spec import ShardTask, WorkerSpec
from distilbatch.pipeline import load_pipeline
from distilbatch.records import Shard
from distilbatch.source.reader import read_shard

MAX_SAMPLE_SHARDS = 8


def choose_shards(shards: Sequence[Shard]) -> list[Shard]:
    """A few shards, evenly from the whole plan."""
    count = min(len(shards), MAX_SAMPLE_SHARDS)
    return [shards[(2 * i + 1) * len(shards) // (2 * count)] for i in range(count)]


def read_sample(spec: WorkerSpec, task: ShardTask, max_rows: int) -> Iterator[pa.RecordBatch]:
    """A shard's first rows, as the tokenizer would get them."""
    pipeline = load_pipeline(spec.pipeline) if spec.pipeline else None
    batches = read_shard(
        spec.source_root,
        task.fragment,
        task.shard.row_start,
        min(task.shard.row_stop, task.shard.row_start + max_rows),
        schema=spec.source_schema,
        text_column=spec.text_column,
        on_bad_rows="error-rows" if spec.error_rows else "fail",
    )
    for item in batches:
        yield run_hook("before", pipeline.before if pipeline else None, item.batch, must_have=spec.text_column)
