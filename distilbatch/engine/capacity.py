"""How long a job would take in float32 at least, told from footers and model sizes before any model is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from distilbatch.commit.records import PlanRecord
from distilbatch.config import Engine
from distilbatch.engine.job import Job
from distilbatch.engine.preparation import suitable_max_length
from distilbatch.engine.spec import HeadSpec
from distilbatch.model.configuration import CONFIG_FILE, DistilBertConfig
from distilbatch.model.flops import forward_flops
from distilbatch.shards.planner import text_bytes_of
from distilbatch.startup import quick_imports

CPU, CUDA = "cpu", "cuda"
# Float32 FLOPs a second, rather too many, so that a forecast is a least time: of a core with AVX-512 about as much as
# it reaches (one with AVX2 does two thirds), of a card without the tensor cores, which float32 does without.
_FLOPS_PER_S = {CPU: 1e11, CUDA: 5e13}
_MEAN_BYTES_PER_TOKEN = 4  # of English; other languages have fewer
_SPECIAL_TOKENS = 2


@dataclass(frozen=True, slots=True)
class Capacity:
    """What computes.

    Args:
        kind: ``cpu`` or ``cuda``.
        units: Cores, or cards.
    """

    kind: str
    units: float

    def seconds(self, flops: float) -> float:
        """The least time that so much takes in float32."""
        return flops / (_FLOPS_PER_S[self.kind] * max(self.units, 1.0))


def cores_here(engine: Engine) -> Capacity:
    """The cores that a forward pass may have in this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Capacity(CPU, engine.threads if engine.type == "local" and isinstance(engine.threads, int) else cores)


def capacity_here(engine: Engine) -> Capacity:
    """What the config's device is on this machine. Leaves no CUDA context in this process.

    Raises:
        SetupError: This machine has no such device.
    """
    if engine.device != CPU:
        # Small runs, whose workers are other processes, do without torch in this one.
        from distilbatch.inference.precision import resolve_device  # noqa: PLC0415

        if resolve_device(engine.device).type == CUDA:
            return Capacity(CUDA, 1)
    return cores_here(engine)


def capacity_of_workers(engine: Engine, here: Capacity) -> Capacity:
    """What all workers of a job have together.

    Args:
        engine: The engine section; a Ray cluster is joined for a moment.
        here: What this machine has, where the workers will be unless there is a cluster to join.

    Raises:
        SetupError: The cluster cannot be reached.
    """
    if engine.type != "ray":
        return here
    with quick_imports():
        from distilbatch.engine.actors import cluster_capacity  # noqa: PLC0415

    return cluster_capacity(engine) or here


def forward_work(job: Job, plan: PlanRecord) -> float:
    """FLOPs that all rows of a plan take at least, by the uncompressed bytes of the main text.

    Texts that repeat are counted as often as Parquet stores them. Other columns that a head reads are not counted.
    """
    sizes = [(shard.num_rows, text_bytes_of(plan.fragments[shard.fragment], shard)) for shard in plan.shards]
    distinct = {(head.fingerprint, head.task, head.columns): head for head in job.heads}  # the others share a forward
    return sum(_work_of_head(head, sizes, job.config.source.max_doc_bytes) for head in distinct.values())


def _work_of_head(head: HeadSpec, sizes: list[tuple[int, int]], max_doc_bytes: int) -> float:
    config = DistilBertConfig.from_file(head.model / CONFIG_FILE)
    longest = suitable_max_length(head, config.max_position_embeddings)
    asked = len(head.options.get("candidate_labels", ("",)))  # zero-shot: the text goes through with each of them
    flops = 0.0
    for rows, text_bytes in sizes:
        tokens = min(text_bytes / max(rows, 1), max_doc_bytes) / _MEAN_BYTES_PER_TOKEN + _SPECIAL_TOKENS
        length = min(tokens, longest)
        windows = tokens / length if head.stride is not None else 1.0
        of_one = sum(forward_flops(config, np.array([round(length)]), first_only=False).values())
        flops += rows * windows * asked * of_one
    return flops
