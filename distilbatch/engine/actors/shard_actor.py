"""A worker in a process of its own, and how the driver's side starts one and reads what it answers."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import ray
from ray.exceptions import RayError, RayTaskError

from distilbatch.config import Engine
from distilbatch.dated import date_worker_logs
from distilbatch.engine.actors.slots import Slots
from distilbatch.engine.crashes import CRASH_MESSAGE, hang_message
from distilbatch.engine.failures import as_ours
from distilbatch.engine.spec import ShardTask, WorkerSpec
from distilbatch.engine.watchdog import EndWithStacks, Watchdog
from distilbatch.errors import DistilbatchError, ResourceError
from distilbatch.oserrors import storing
from distilbatch.records import ShardResult
from distilbatch.startup import quick_imports

if TYPE_CHECKING:
    from distilbatch.engine.worker import Worker


_LOST_DEVICE_EXIT = 70  # EX_SOFTWARE; nobody reads it but people, in Ray's logs

_log = logging.getLogger("distilbatch")


class ShardActor:
    """A worker in a process of its own; the methods run in a few threads of it."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def placed(self) -> None:
        """Answer as soon as there is a process for the actor, before its models are loaded."""

    def start(self, spec: WorkerSpec, stacks: Path) -> dict[str, Any]:
        """Load the models. Apart from the constructor, because Ray hides what a constructor raises.

        Args:
            spec: What the worker does.
            stacks: Where it leaves its stacks when it hangs. The log of the driver is out of its reach.
        """
        date_worker_logs()
        # The driver, which only makes handles of this class, does without torch.
        with quick_imports():
            from distilbatch.engine.worker import Worker  # noqa: PLC0415

        # Read by the tokenizer's thread pool when it is first used.
        os.environ["RAYON_NUM_THREADS"] = str(spec.device.threads)
        self._worker = Worker(spec, end_process=_end_process, watchdog=_watchdog(spec, stacks))
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
        stacks: Where its stacks are if it died because it hung; None where nobody watches.
        hang_timeout_s: How long nothing may come of its work.
    """

    actor: Any
    placed: Any
    start: Any
    ready: bool = False
    tasks: dict[Any, ShardTask] = field(default_factory=dict)
    stacks: Path | None = None
    hang_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Death:
    """Why an actor died.

    Args:
        cause: For people.
        error: The message of a row that it died of.
        remedy: Where to look.
    """

    cause: str
    error: str = CRASH_MESSAGE
    remedy: str = "look for the cause in Ray's logs"


def _end_process(error: DistilbatchError) -> None:
    """Die, so that the driver sees a dead worker, and not shard after shard that fails in no time.

    Hard, as the process's own end would wait for the device, and with the words on stderr, which Ray keeps.
    """
    sys.stderr.write(f"{error}\n")
    sys.stderr.flush()
    os._exit(_LOST_DEVICE_EXIT)


def _watchdog(spec: WorkerSpec, stacks: Path) -> Watchdog:
    if spec.hang_timeout_s is None:
        return Watchdog(None)
    with storing("write", stacks):
        stacks.parent.mkdir(parents=True, exist_ok=True)
        file = stacks.open("wb", buffering=0)
    return Watchdog(spec.hang_timeout_s, alarm=EndWithStacks(file))


def look_into_death(slot: ActorSlot, error: RayError) -> Death:
    """Why an actor died. The stacks that it left where it hung go to the log."""
    if slot.stacks is None or slot.hang_timeout_s is None:
        return Death(first_line(error))
    stacks = slot.stacks.read_text("utf-8", errors="replace") if slot.stacks.is_file() else ""
    slot.stacks.unlink(missing_ok=True)
    if not stacks:
        return Death(first_line(error))
    _log.warning("the stacks of a worker that made no progress for %g s:\n%s", slot.hang_timeout_s, stacks.strip())
    return Death(
        f"it made no progress for {slot.hang_timeout_s:g} s (engine.hang_timeout_s); its stacks are in the log",
        hang_message(slot.hang_timeout_s),
        "look for the cause in these stacks, or raise engine.hang_timeout_s if the work only needs longer",
    )


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
    stacks = spec.layout.stacks(uuid4().hex)
    return ActorSlot(
        actor,
        actor.placed.remote(),
        actor.start.remote(spec, stacks),
        stacks=stacks,
        hang_timeout_s=spec.hang_timeout_s,
    )


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
