"""What the pipeline around the model costs: a whole job, from Parquet to committed Parquet, against its forward alone.

Both sides use the same loaded model, documents, threads and token budget, in turn, so that a machine whose clock
drifts drifts for both.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from distilbatch.config import Config
from distilbatch.engine.driver import Driver
from distilbatch.engine.heads import Heads, TokenizedBuffer, count_rows
from distilbatch.engine.job import Job, resolve_job, worker_spec
from distilbatch.engine.local import LocalExecutor
from distilbatch.engine.planning import build_plan, list_source
from distilbatch.source.reader import read_shard

DEFAULT_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Overhead:
    """Figures of one benchmark run.

    Args:
        rows: Rows of the job.
        documents: Rows that reached the model.
        tokens: Tokens of these documents, special tokens included.
        tokens_computed: Tokens that went through the model; the difference would be padding.
        job_s: Wall seconds of each whole job: plan, read, tokenize, pack, forward, decode, write, fsync, publish.
        model_s: Wall seconds of each forward over the same documents, tokenized beforehand.
        overhead: Median of ``1 - model_s / job_s``, round by round.
        resident_bytes: Resident memory of the process at the end.
        threads: CPU threads of torch.
        device: Where the model ran.
        precision: Its number format.
    """

    rows: int
    documents: int
    tokens: int
    tokens_computed: int
    job_s: tuple[float, ...]
    model_s: tuple[float, ...]
    overhead: float
    resident_bytes: int
    threads: int
    device: str
    precision: str

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values, with the rates they amount to."""
        job_s, model_s = statistics.median(self.job_s), statistics.median(self.model_s)
        return {
            **asdict(self),
            "rows_per_s": round(self.rows / job_s, 1),
            "job_documents_per_s": round(self.documents / job_s, 1),
            "model_documents_per_s": round(self.documents / model_s, 1),
        }


def measure_overhead(config: Config, *, limit: int = DEFAULT_ROWS, rounds: int = 3) -> Overhead:
    """Run a job and its bare forward in turn, in this process; the job's own sink is not touched.

    Args:
        config: The job; its engine's device, precision, threads and budgets are used, its type is not.
        limit: Rows of the job.
        rounds: Pairs to measure, after one job that only warms up.

    Raises:
        DistilbatchError: The job cannot run.
    """
    with tempfile.TemporaryDirectory(prefix="distilbatch-bench-") as folder:
        heads, buffers = _prepare(resolve_job(config, limit=limit))
        job_s, model_s = [], []
        for number in range(rounds + 1):
            job_seconds = _run_job(config, Path(folder) / str(number), limit, heads)
            # In a thread, as in a job: the main thread's allocator returns large blocks to the system each time.
            with ThreadPoolExecutor(1) as pool:
                model_seconds, computed = pool.submit(_run_model, heads, buffers).result()
            if number:
                job_s.append(job_seconds)
                model_s.append(model_seconds)
    return Overhead(
        rows=sum(buffer.texts.num_rows for buffer in buffers),
        documents=sum(int((count_rows(buffer).num_tokens > 0).sum()) for buffer in buffers),
        tokens=sum(heads.tokens_to_compute(buffer) for buffer in buffers),
        tokens_computed=computed,
        job_s=tuple(job_s),
        model_s=tuple(model_s),
        overhead=statistics.median(1 - model / job for model, job in zip(model_s, job_s, strict=True)),
        resident_bytes=psutil.Process().memory_info().rss,
        threads=torch.get_num_threads(),
        device=str(heads.device),
        precision=heads.precision,
    )


def _prepare(job: Job) -> tuple[Heads, list[TokenizedBuffer]]:
    listing = list_source(job)
    plan = build_plan(job, listing, [])
    spec = worker_spec(job, plan)
    heads = Heads(spec.heads, device=spec.device, max_doc_bytes=spec.max_doc_bytes)
    buffers = [
        heads.tokenize(dict(zip(batch.batch.schema.names, batch.batch.columns, strict=True)))
        for shard in plan.shards
        for batch in read_shard(
            spec.source_root,
            plan.fragments[shard.fragment],
            shard.row_start,
            shard.row_stop,
            schema=spec.source_schema,
            text_column=spec.text_column,
            batch_rows=spec.sort_buffer_rows,
        )
    ]
    return heads, buffers


def _run_job(config: Config, sink: Path, limit: int, heads: Heads) -> float:
    config = config.model_copy(update={"sink": config.sink.model_copy(update={"path": str(sink)})})
    start = time.perf_counter()
    Driver(resolve_job(config, limit=limit), make_executor=lambda _, spec: LocalExecutor(spec, heads=heads)).run()
    return time.perf_counter() - start


def _run_model(heads: Heads, buffers: Sequence[TokenizedBuffer]) -> tuple[float, int]:
    start, computed = time.perf_counter(), 0
    for buffer in buffers:
        computed += sum(output.tokens_computed for output in heads.predict(buffer))
    return time.perf_counter() - start, computed
