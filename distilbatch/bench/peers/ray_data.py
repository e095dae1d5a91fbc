"""The Ray Data recipe: ``map_batches`` over a Hugging Face pipeline in an actor pool, Parquet to Parquet.

A peer being measured, never a part of what runs.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from itertools import count
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import ray.data
from numpy.typing import NDArray
from typing_extensions import override

from distilbatch.bench.competitor import JOB, Competitor
from distilbatch.bench.machine import versions_of
from distilbatch.bench.peers.huggingface import load_pipeline
from distilbatch.bench.peers.slots import TokenSlots
from distilbatch.bench.workload import Workload
from distilbatch.engine.actors.cluster import start_local

_BATCH_ROWS = 32
_BLOCKS_PER_ACTOR = 4
_START, _STOP, _LABEL, _LOGITS, _ROW, _SLOTS = "start_s", "stop_s", "label", "logits", "row", "token_slots"


class Classifier:
    """What an actor of the pool holds.

    Args:
        workload: The workload as JSON values.
        details: Whether to keep all logits.
    """

    def __init__(self, workload: Mapping[str, Any], details: bool) -> None:
        chosen = Workload.from_dict(workload)
        self._pipeline = load_pipeline(chosen)
        self._slots = TokenSlots(self._pipeline.model.get_input_embeddings())
        self._text = chosen.text_column
        self._details = details
        self._settings = {"batch_size": _BATCH_ROWS, "truncation": True, "max_length": chosen.max_length}

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add labels to a batch."""
        start = time.time()
        texts = list(batch[self._text])
        if self._details:
            scored = self._pipeline(texts, top_k=None, function_to_apply="none", **self._settings)
            places = self._pipeline.model.config.label2id
            batch[_LOGITS] = np.array(
                [[s["score"] for s in sorted(r, key=lambda s: places[s["label"]])] for r in scored]
            )
        else:
            batch[_LABEL] = [result["label"] for result in self._pipeline(texts, **self._settings)]
        batch[_SLOTS] = np.zeros(len(texts), dtype=np.int64)
        batch[_SLOTS][:1] = self._slots.take()  # of the whole batch, once
        batch[_START], batch[_STOP] = np.full(len(texts), start), np.full(len(texts), time.time())
        return batch


class RayDataPeer(Competitor):
    """A local cluster with an actor of one core for each thread.

    Args:
        workload: Its model and documents.
    """

    def __init__(self, workload: Workload) -> None:
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # for the actors
        gpus = 1 if workload.device.startswith("cuda") else 0
        # One for reading and writing: a pool that holds all of them waits for ever.
        start_local(num_cpus=workload.threads + 1, num_gpus=gpus, configure_logging=False)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        self._workload = workload
        self._actors = 1 if gpus else workload.threads
        self._gpus = gpus
        self._folders = (workload.scratch / f"ray-data-{number}" for number in count())

    @property
    @override
    def scopes(self) -> tuple[str, ...]:
        return (JOB,)

    @override
    def describe(self) -> Mapping[str, Any]:
        return {"actors": self._actors, **versions_of("ray", "transformers")}

    @override
    def probe(self) -> None:
        """Nothing: the pipeline is a contestant of its own, and starting actors would be most of it."""

    @override
    def outputs(self) -> NDArray[np.float32]:
        table = self._run(details=True)
        order = np.argsort(np.asarray(table[_ROW]))
        return np.array(table[_LOGITS].to_pylist(), dtype=np.float32)[order]

    @override
    def run(self, scope: str) -> Mapping[str, Any]:
        start = time.perf_counter()
        table = self._run(details=False)
        wall = time.perf_counter() - start
        # Each execution starts its actors anew; a table of millions of rows would not notice.
        seconds = float(max(table[_STOP].to_pylist()) - min(table[_START].to_pylist()))
        return {"seconds": seconds, "with_start_s": wall, "tokens_computed": sum(table[_SLOTS].to_pylist())}

    def _run(self, *, details: bool) -> Any:  # noqa: ANN401 - an Arrow table
        folder = next(self._folders)
        table = pq.read_table(self._workload.documents, columns=[self._workload.text_column])
        table = table.append_column(_ROW, [np.arange(table.num_rows)])
        pq.write_table(table, source := folder.with_suffix(".parquet"))
        ray.data.read_parquet(str(source)).repartition(self._actors * _BLOCKS_PER_ACTOR).map_batches(
            Classifier,
            fn_constructor_args=(self._workload.to_dict(), details),
            batch_size=_BATCH_ROWS,
            compute=ray.data.ActorPoolStrategy(size=self._actors),
            num_cpus=0 if self._gpus else 1,
            num_gpus=self._gpus,
        ).write_parquet(str(folder))
        written = pq.read_table(folder)
        shutil.rmtree(folder)
        return written
