"""Joins a Ray cluster or starts a local one that nobody outside this machine can reach."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import ray
from ray._private import services, worker

from distilbatch.config import Engine
from distilbatch.errors import SetupError

LOOPBACK = "127.0.0.1"
_CONNECT_S = 10.0
_OBJECT_STORE_BYTES = 128 << 20  # only descriptors and small results pass through it
_UNSAFE_VARIABLE = "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA"
_MAX_SMALL_CLUSTER_CPUS = 8
_TEXT_BYTES_OF_AN_ACTOR = 1 << 20
_MAX_THREADS_AT_FULL_SPEED = 4
_MAX_ACTOR_CPUS = 16.0  # more threads have too little work each in a token batch of a CPU

_log = logging.getLogger("distilbatch")


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


@contextmanager
def connected(engine: Engine) -> Iterator[None]:
    """Be connected to a cluster inside the block.

    A connection that was there before is used and left alone. Otherwise ``engine.address`` or ``RAY_ADDRESS`` is
    joined, else a local cluster is started, with its ports on the loopback interface, and ended with the block.

    Raises:
        SetupError: The cluster cannot be reached or started, or an environment variable makes Ray unsafe.
    """
    if os.environ.get(_UNSAFE_VARIABLE):
        raise SetupError(
            f"{_UNSAFE_VARIABLE} is set", found="a setting that lets a Parquet file run code", remedy="unset it"
        )
    if ray.is_initialized():
        yield
        return
    # Ray prints what it has to say about dead workers to stdout, which belongs to the program.
    with _replaced(worker, "print_to_stdstream", _log_lines):
        _connect(engine.address or os.environ.get("RAY_ADDRESS"))
        try:
            yield
        finally:
            ray.shutdown()


def _connect(address: str | None) -> None:
    try:
        with _own_sigterm_handler():
            if address:
                _refuse_silence(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
            else:
                start_local(object_store_memory=_OBJECT_STORE_BYTES)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise SetupError(
            f"Ray cluster {address or 'on this machine'}",
            expected="a cluster to work on",
            found=f"{type(error).__name__}: {error}",
            remedy="check RAY_ADDRESS and the cluster, or set engine.type: local",
        ) from error


def _refuse_silence(address: str) -> None:
    """Knock at ``host:port`` first: Ray itself waits for many minutes for a cluster that is not there.

    Raises:
        OSError: Nobody answers.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def plan_slots(engine: Engine, *, num_shards: int, text_bytes: int) -> Slots:
    """Fill the connected cluster with actors, as far as the config leaves it open.

    Args:
        engine: The engine section.
        num_shards: More actors than shards would idle.
        text_bytes: How much text there is; for little of it, few actors with more threads start sooner.

    Raises:
        SetupError: The cluster has not what one actor needs.
    """
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = float(total.get("CPU", 0)), float(total.get("GPU", 0))
    per_gpu = 0.0
    if isinstance(engine.gpus_per_actor, (int, float)):
        per_gpu = float(engine.gpus_per_actor)
    elif gpus and engine.device != "cpu":
        per_gpu = 1.0
    per_cpu = _cpus_per_actor(engine, cpus, gpus / per_gpu if per_gpu else 0)
    fit = int(min(cpus // per_cpu, gpus // per_gpu if per_gpu else cpus // per_cpu))
    if fit < 1:
        raise SetupError(
            "no actor fits into the cluster",
            expected=f"{per_cpu:g} CPUs and {per_gpu:g} GPUs for one",
            found=f"{cpus:g} CPUs and {gpus:g} GPUs",
            remedy="lower engine.cpus_per_actor or engine.gpus_per_actor",
        )
    wanted = min(engine.actors, fit) if isinstance(engine.actors, int) else fit
    actors = min(wanted, max(1, num_shards))
    if engine.cpus_per_actor == "auto" and not per_gpu and _is_one_machine():
        if engine.actors == "auto":
            actors = min(actors, _worthwhile_actors(cpus, text_bytes))
        if actors < wanted:  # the others would leave cores idle
            free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
            per_cpu = max(per_cpu, min(free.get("CPU", 0.0) // actors, _MAX_ACTOR_CPUS))
    threads = engine.threads if isinstance(engine.threads, int) else max(1, int(per_cpu))
    return Slots(actors, per_cpu, per_gpu, threads)


def _is_one_machine() -> bool:
    """Whether an actor may have all CPUs that the cluster has."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return len([node for node in nodes if node["Alive"]]) == 1


def _worthwhile_actors(cpus: float, text_bytes: int) -> int:
    # Starting one costs several seconds of a core; up to some threads, one computes as fast as several of one thread.
    return max(1, -(-text_bytes // _TEXT_BYTES_OF_AN_ACTOR), int(cpus // _MAX_THREADS_AT_FULL_SPEED))


def _cpus_per_actor(engine: Engine, cpus: float, gpu_slots: float) -> float:
    if isinstance(engine.cpus_per_actor, (int, float)):
        return float(engine.cpus_per_actor)
    if gpu_slots:  # tokenization has to keep up with a GPU
        return max(1.0, cpus // gpu_slots)
    # Single-threaded actors have no barriers between cores; on large machines their models would fill the memory.
    return 1.0 if cpus <= _MAX_SMALL_CLUSTER_CPUS else 4.0


def start_local(**options: Any) -> None:  # noqa: ANN401 - ray.init's
    """Start a cluster on this machine, with its ports on the loopback interface, and connect to it.

    Args:
        options: More of ``ray.init``.
    """
    # Ray replaces the loopback address by the machine's own, which opens its ports to the network.
    with _replaced(services, "resolve_ip_for_localhost", lambda host: host):
        ray.init(
            address="local",
            include_dashboard=False,
            dashboard_host=LOOPBACK,
            _node_ip_address=LOOPBACK,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **options,
        )


def _log_lines(data: dict[str, Any], ignore_prefix: bool = False) -> None:
    _log.debug("Ray: %s", "\n".join(data["lines"]))


@contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Put the program's handler of SIGTERM back, which ``ray.init`` replaces by one that exits."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # Where the program had none, Ray's is better than to die without ending the cluster.
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _replaced(module: ModuleType, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Put another function in the place of a private one of Ray, which has no setting for what it does.

    Where Ray no longer has it, Ray's own way stays.
    """
    original = getattr(module, name, None)
    if original is None:
        yield
        return
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, original)
