"""Ourselves as a contestant: the model alone over tokenized sort buffers, and the whole job around it.

Both use the same loaded heads, documents, threads and token budget, so that their ratio is what the pipeline costs.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from distilbatch.bench.competitor import JOB, MODEL, Competitor, probe_documents
from distilbatch.bench.stages import STAGES, measure_stages, read_buffers
from distilbatch.bench.workload import Workload
from distilbatch.config import load_config
from distilbatch.engine.driver import Driver
from distilbatch.engine.heads import Heads
from distilbatch.engine.job import resolve_job, worker_spec
from distilbatch.engine.local import LocalExecutor
from distilbatch.engine.memory import steady_memory
from distilbatch.engine.planning import build_plan, list_source
from distilbatch.records import HeadOutput


class Ourselves(Competitor):
    """Heads loaded in one precision, as a worker of the job would load them.

    Args:
        workload: The job and its documents.
        precision: Its precision, in place of the config's.
        name: Names the sinks it writes to.

    Raises:
        DistilbatchError: The precision or the device is not usable here, or the job cannot run.
    """

    def __init__(self, workload: Workload, *, precision: str, name: str) -> None:
        config = load_config(workload.config)
        # Not validated, so that a precision which the engine knows before the config does can be measured.
        settings = {"precision": precision, "device": workload.device, "threads": workload.threads}
        self._config = config.model_copy(update={"engine": config.engine.model_copy(update=settings)})
        self._workload = workload
        self._sinks = (workload.scratch / f"{name}-sink-{number}" for number in count())
        job = resolve_job(self._config)
        self._plan = build_plan(job, list_source(job), [])
        self._spec = worker_spec(job, self._plan)
        steady_memory()  # as a worker does
        self._heads = Heads(self._spec.heads, device=self._spec.device, max_doc_bytes=self._spec.max_doc_bytes)
        self._buffers = [
            self._heads.tokenize(columns)
            for columns in read_buffers(self._spec, self._plan, rows=self._spec.sort_buffer_rows)
        ]

    @property
    @override
    def scopes(self) -> tuple[str, ...]:
        return (MODEL, JOB, STAGES)

    @override
    def describe(self) -> Mapping[str, Any]:
        return {
            "sort_buffers": len(self._buffers),
            "tokens": sum(self._heads.tokens_to_compute(buffer) for buffer in self._buffers),
            "device": str(self._heads.device),
            "max_batch_tokens": self._heads.max_batch_tokens,
        }

    @override
    def probe(self) -> None:
        rows = self._shortest(probe_documents(self._workload))
        self._heads.predict(self._heads.tokenize(rows))

    @override
    def outputs(self) -> NDArray[np.float32]:
        return np.concatenate([outputs[0].values for outputs in self._predict()])

    @override
    def run(self, scope: str) -> Mapping[str, Any]:
        if scope == JOB:
            return self._run_job()
        if scope == STAGES:
            return measure_stages(self._heads, self._spec, self._plan)
        computed = sum(output.tokens_computed for outputs in self._predict() for output in outputs)
        return {"tokens_computed": computed}

    def _predict(self) -> Sequence[list[HeadOutput]]:
        # In a thread, as in a job: the main thread's allocator returns large blocks to the system each time.
        with ThreadPoolExecutor(1) as pool:
            return list(pool.map(self._heads.predict, self._buffers))

    def _run_job(self) -> Mapping[str, Any]:
        sink = next(self._sinks)
        config = self._config.model_copy(update={"sink": self._config.sink.model_copy(update={"path": str(sink)})})
        job = resolve_job(config)
        report = Driver(job, make_executor=lambda _, spec: LocalExecutor(spec, heads=self._heads)).run()
        shutil.rmtree(sink)
        return {"tokens_computed": report.tokens_computed, "busy_s": report.stage_seconds}

    def _shortest(self, rows: int) -> Mapping[str, Any]:
        columns = next(read_buffers(self._spec, self._plan, rows=self._spec.sort_buffer_rows))
        sizes = np.array([len(str(text)) for text in columns[self._spec.text_column].to_pylist()])
        chosen = np.argsort(sizes)[:rows]
        return {name: column.take(chosen) for name, column in columns.items()}
