"""A worker in a process of its own, and how the driver's side starts one and reads what it answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayTaskError

from distilbatch.config import Engine
from distilbatch.dated import date_worker_logs
from distilbatch.engine.actors.slots import Slots
from distilbatch.engine.failures import as_ours
from distilbatch.engine.spec import ShardTask, WorkerSpec
from distilbatch.errors import DistilbatchError, ResourceError
from distilbatch.records import ShardResult
from distilbatch.startup import quick_imports

if TYPE_CHECKING:
    from distilbatch.engine.worker import Worker


_LOST_DEVICE_EXIT = 70  # EX_SOFTWARE; nobody reads it but people, in Ray's logs


class ShardActor:
    """A worker in a process of its own; the methods run in a few threads of it."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def placed(self) -> None:
        """Answer as soon as there is a process for the actor, before its models are loaded."""

    def start(self, spec: WorkerSpec) -> dict[str, Any]:
        """Load the models. Apart from the constructor, because Ray hides what a constructor raises."""
        date_worker_logs()
        # The driver, which only makes handles of this class, does without torch.
        with quick_imports():
            from distilbatch.engine.worker import Worker  # noqa: PLC0415

        # Read by the tokenizer's thread pool when it is first used.
        os.environ["RAYON_NUM_THREADS"] = str(spec.device.threads)
        self._worker = Worker(spec, end_process=_end_process)
        gpus = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        return {"pid": os.getpid(), "gpus": gpus, "precision": self._worker.precision}

    def process(self, task: ShardTask) -> ShardResult:
        """Label a shard; see :meth:`distilbatch.engine.worker.Worker.process`."""
        return self._loaded().process(task)

    def canary(self) -> None:
        """Compute a known text; see :meth:`distilbatch.engine.worker.Worker.canary`."""
        self._loaded().canary()

    def probe(self, task: ShardTask, rows: tuple[int, ...], stage: str) -> None:
        """Compute rows for nothing; see :meth:`distilbatch.engine.worker.Worker.probe`."""
        self._loaded().probe(task, rows, stage=stage)

    def _loaded(self) -> Worker:
        if self._worker is None:
            raise ResourceError("an actor was used before it was started")
        return self._worker


@dataclass
class ActorSlot:
    """An actor and what it has been asked.

    Args:
        actor: The handle.
        placed: The call that a node's process answers at once.
        start: The call that loads its models.
        ready: Whether they are loaded.
        tasks: Shards under way, by call.
    """

    actor: Any
    placed: Any
    start: Any
    ready: bool = False
    tasks: dict[Any, ShardTask] = field(default_factory=dict)


def _end_process(error: DistilbatchError) -> None:
    """Die, so that the driver sees a dead worker, and not shard after shard that fails in no time.

    Hard, as the process's own end would wait for the device, and with the words on stderr, which Ray keeps.
    """
    sys.stderr.write(f"{error}\n")
    sys.stderr.flush()
    os._exit(_LOST_DEVICE_EXIT)


def start_actor(spec: WorkerSpec, engine: Engine, slots: Slots) -> ActorSlot:
    """Ask the connected cluster for an actor, which starts in its own time."""
    options = {
        "num_cpus": slots.cpus,
        "num_gpus": slots.gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
        "max_concurrency": engine.in_flight_per_actor,
        "scheduling_strategy": "SPREAD",
    }
    remote_class: Any = ray.remote(ShardActor)
    actor = remote_class.options(**options).remote()
    return ActorSlot(actor, actor.placed.remote(), actor.start.remote(spec))


def next_slot(slots: Sequence[ActorSlot], *, waiting: int, most: int) -> ActorSlot | None:
    """The actor that the next shard goes to, if one may have it now.

    Every actor gets a shard before one gets a second, also those that are still starting: to a job of few shards, one
    that waits its turn in an actor is lost to the others.

    Args:
        slots: The actors.
        waiting: How many shards wait.
        most: Shards that an actor works on at a time.
    """
    slot = min((slot for slot in slots if slot.ready), key=lambda slot: len(slot.tasks), default=None)
    if slot is None or len(slot.tasks) >= most:
        return None
    idle = sum(not other.tasks for other in slots) if slot.tasks else 0
    return slot if waiting > idle else None


def original_error(error: RayTaskError) -> DistilbatchError:
    """What a worker raised."""
    return as_ours(error.cause)


def first_line(error: BaseException) -> str:
    """The first line of a message."""
    return str(error).strip().partition("\n")[0]
