"""How many actors a Ray cluster holds and what each reserves: counted node by node, as no actor spans two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from distilbatch.config import Engine
from distilbatch.engine.actors.cluster import connected, is_there
from distilbatch.engine.capacity import CPU, CUDA, Capacity
from distilbatch.errors import SetupError

_AUTO = "auto"
_MAX_SMALL_CLUSTER_CPUS = 8
_MAX_ACTOR_CPUS_OF_LARGE_CLUSTERS = 4
_MOST_IDLE = 0.15  # share of the CPUs that larger actors may leave over
_TEXT_BYTES_OF_AN_ACTOR = 1 << 20
_MAX_THREADS_AT_FULL_SPEED = 4
_MAX_ACTOR_CPUS = 16.0  # more threads have too little work each in a token batch of a CPU


@dataclass(frozen=True, slots=True)
class Slots:
    """How many actors a cluster holds and what each reserves.

    Args:
        actors: How many.
        cpus: CPUs of each.
        gpus: GPUs of each; 0 computes on the CPU.
        threads: CPU threads each computes with.
    """

    actors: int
    cpus: float
    gpus: float
    threads: int


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of a cluster.

    Args:
        cpus: CPUs that Ray counts there, busy ones included.
        gpus: GPUs likewise.
    """

    cpus: float
    gpus: float


def alive_nodes() -> list[Node]:
    """The machines of the connected cluster."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    return [Node(float(found.get("CPU", 0)), float(found.get("GPU", 0))) for found in resources]


def describe_nodes(nodes: Sequence[Node]) -> str:
    """Machines for people, equal ones together."""
    counts = Counter(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in nodes)
    return ", ".join(f"{count} x {what}" if count > 1 else what for what, count in counts.items())


def gpus_of_actor(engine: Engine, nodes: Sequence[Node]) -> float:
    """GPUs that each actor reserves; 0 where actors compute on the CPU.

    Raises:
        SetupError: The config asks for GPUs, and the cluster has none.
    """
    if isinstance(engine.gpus_per_actor, (int, float)):
        return float(engine.gpus_per_actor)
    if engine.device == CPU:
        return 0.0
    if any(node.gpus for node in nodes):
        return 1.0
    if engine.device != _AUTO:
        raise SetupError(
            f"engine.device {engine.device}",
            expected="a cluster with GPUs",
            found=describe_nodes(nodes),
            remedy="join nodes that Ray was started on with GPUs, or set engine.device to auto or cpu",
        )
    return 0.0


def cluster_capacity(engine: Engine) -> Capacity | None:
    """What the actors of a job will compute on; None where there is no cluster yet, and this machine will be one.

    Raises:
        SetupError: The cluster cannot be reached, or has no GPU for a config that asks for one.
    """
    if not is_there(engine):
        return None
    with connected(engine):
        nodes = alive_nodes()
    if engine.device != CPU and gpus_of_actor(engine, nodes):
        return Capacity(CUDA, sum(node.gpus for node in nodes))
    return Capacity(CPU, sum(node.cpus for node in nodes))


def plan_slots(engine: Engine, *, num_shards: int, text_bytes: int) -> Slots:
    """Fill the connected cluster with actors, as far as the config leaves it open.

    Args:
        engine: The engine section.
        num_shards: More actors than shards would idle.
        text_bytes: How much text there is; for little of it, few actors with more threads start sooner.

    Raises:
        SetupError: The cluster has not what one actor needs, or no GPU for a config that asks for one.
    """
    nodes = alive_nodes()
    per_gpu = gpus_of_actor(engine, nodes)
    per_cpu = _cpus_of_actor(engine, nodes, per_gpu)
    fit = sum(_fitting(node, per_cpu, per_gpu) for node in nodes)
    if fit < 1:
        raise SetupError(
            "no actor fits into the cluster",
            expected=f"{per_cpu:g} CPUs and {per_gpu:g} GPUs for one",
            found=describe_nodes(nodes),
            remedy="lower engine.cpus_per_actor or engine.gpus_per_actor",
        )
    wanted = min(engine.actors, fit) if isinstance(engine.actors, int) else fit
    actors = min(wanted, max(1, num_shards))
    if engine.cpus_per_actor == "auto" and not per_gpu and len(nodes) == 1:  # one actor may have all CPUs
        if engine.actors == "auto":
            actors = min(actors, _worthwhile_actors(nodes[0].cpus, text_bytes))
        if actors < wanted:  # the others would leave cores idle
            free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
            per_cpu = max(per_cpu, min(free.get("CPU", 0.0) // actors, _MAX_ACTOR_CPUS))
    threads = engine.threads if isinstance(engine.threads, int) else max(1, int(per_cpu))
    return Slots(actors, per_cpu, per_gpu, threads)


def _worthwhile_actors(cpus: float, text_bytes: int) -> int:
    # Starting one costs several seconds of a core; up to some threads, one computes as fast as several of one thread.
    return max(1, -(-text_bytes // _TEXT_BYTES_OF_AN_ACTOR), int(cpus // _MAX_THREADS_AT_FULL_SPEED))


def _cpus_of_actor(engine: Engine, nodes: Sequence[Node], per_gpu: float) -> float:
    if isinstance(engine.cpus_per_actor, (int, float)):
        return float(engine.cpus_per_actor)
    if per_gpu:  # tokenization has to keep up with a GPU
        shares = [node.cpus // count for node in nodes if (count := _gpu_shares(node, per_gpu))]
        return max(1.0, min(shares, default=1.0))
    # Single-threaded actors have no barriers between cores; on large machines their models would fill the memory.
    total = sum(node.cpus for node in nodes)
    largest = 1 if total <= _MAX_SMALL_CLUSTER_CPUS else _MAX_ACTOR_CPUS_OF_LARGE_CLUSTERS
    for size in range(largest, 1, -1):
        if size * sum(_fitting(node, size, 0) for node in nodes) >= (1 - _MOST_IDLE) * total:
            return float(size)
    return 1.0


def _fitting(node: Node, per_cpu: float, per_gpu: float) -> int:
    """Actors that a machine holds."""
    by_cpu = _times(node.cpus, per_cpu)
    return min(by_cpu, _gpu_shares(node, per_gpu)) if per_gpu else by_cpu


def _gpu_shares(node: Node, per_gpu: float) -> int:
    """Actors that the GPUs of a machine hold. A fraction is of one GPU: what is left of two does not add up."""
    return _times(node.gpus, per_gpu) if per_gpu >= 1 else int(node.gpus) * _times(1, per_gpu)


def _times(whole: float, part: float) -> int:
    """How often a part is in a whole; ten times is 0.1 in 1, which floor division denies."""
    return int(whole / part + 1e-9)
