"""Dispatches shards to actors, a bounded number at a time, and replaces actors that die.

Calls are at-most-once; the dispatcher re-queues shards itself, so that a shard that kills its actor is not
replayed for ever. Nothing but shard descriptors and small results passes through the driver.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from typing_extensions import override

from distilbatch.config import Engine
from distilbatch.engine.actors.cluster import Slots, connected, plan_slots
from distilbatch.engine.attempt import read_trace
from distilbatch.engine.crashes import find_crashing_rows, without_rows
from distilbatch.engine.executor import Executor
from distilbatch.engine.spec import Outcome, PoolEvent, ShardFailure, ShardTask, WorkerSpec
from distilbatch.engine.worker import Worker
from distilbatch.errors import DistilbatchError, ResourceError
from distilbatch.records import Fragment, ShardResult

_POLL_S = 0.5
_DEATHS_BEFORE_SEARCH = 2
_MAX_DEATHS_OF_A_SHARD = 6


class ShardActor:
    """A worker in a process of its own; the methods run in a few threads of it."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def start(self, spec: WorkerSpec) -> dict[str, Any]:
        """Load the models. Apart from the constructor, because Ray hides what a constructor raises."""
        # Read by the tokenizer's thread pool when it is first used.
        os.environ["RAYON_NUM_THREADS"] = str(spec.device.threads)
        self._worker = Worker(spec)
        context = ray.get_runtime_context()
        return {"pid": os.getpid(), "node": context.get_node_id(), "gpus": context.get_accelerator_ids()["GPU"]}

    def process(self, task: ShardTask) -> ShardResult:
        """Label a shard; see :meth:`distilbatch.engine.worker.Worker.process`."""
        return self._loaded().process(task)

    def probe(self, fragment: Fragment, rows: tuple[int, ...]) -> None:
        """Compute rows for nothing; see :meth:`distilbatch.engine.worker.Worker.probe`."""
        self._loaded().probe(fragment, rows)

    def _loaded(self) -> Worker:
        if self._worker is None:
            raise ResourceError("an actor was used before it was started")
        return self._worker


@dataclass
class _Slot:
    """An actor and what it has been asked."""

    actor: Any
    start: Any
    ready: bool = False
    tasks: dict[Any, ShardTask] = field(default_factory=dict)


class RayExecutor(Executor):
    """Runs shards on a Ray cluster.

    Args:
        spec: What a worker does.
        engine: Placement and budgets.
    """

    def __init__(self, spec: WorkerSpec, engine: Engine) -> None:
        self._spec = spec
        self._engine = engine

    @override
    def run(self, tasks: Sequence[ShardTask], *, stop: threading.Event) -> Iterator[Outcome]:
        with connected(self._engine):
            slots = plan_slots(self._engine, num_shards=len(tasks))
            pool = _Pool(self._spec, self._engine, slots)
            try:
                yield from pool.run(tasks, stop)
            finally:
                pool.kill()


class _Pool:
    def __init__(self, spec: WorkerSpec, engine: Engine, slots: Slots) -> None:
        device = replace(spec.device, threads=slots.threads)
        if not slots.gpus:
            # Ray leaves every GPU of the machine visible to actors that reserved none.
            device = replace(device, device="cpu")
        self._spec = replace(spec, device=device)
        self._engine = engine
        self._plan = slots
        self._slots: list[_Slot] = []
        self._waiting: deque[ShardTask] = deque()
        self._deaths = 0
        self._blame: Counter[int] = Counter()

    def run(self, tasks: Sequence[ShardTask], stop: threading.Event) -> Iterator[Outcome]:
        self._waiting.extend(tasks)
        self._slots = [self._new_slot() for _ in range(self._plan.actors)]
        give_up_at: float | None = None
        while self._waiting or any(slot.tasks for slot in self._slots):
            if stop.is_set():
                now = time.monotonic()
                give_up_at = now + self._engine.shutdown_grace_s if give_up_at is None else give_up_at
                if now >= give_up_at or not any(slot.tasks for slot in self._slots):
                    return
            else:
                self._assign()
            refs = [ref for slot in self._slots for ref in (*slot.tasks, *([] if slot.ready else [slot.start]))]
            ready, _ = ray.wait(refs, num_returns=1, timeout=_POLL_S)
            for ref in ready:
                yield from self._collect(ref)

    def kill(self) -> None:
        """End every actor, whatever it is doing."""
        for slot in self._slots:
            ray.kill(slot.actor)

    def _assign(self) -> None:
        for slot in self._slots:
            while slot.ready and self._waiting and len(slot.tasks) < self._engine.in_flight_per_actor:
                task = self._waiting.popleft()
                slot.tasks[slot.actor.process.remote(task)] = task

    def _collect(self, ref: Any) -> Iterator[Outcome]:  # noqa: ANN401 - Ray's reference type is private
        slot = next((slot for slot in self._slots if ref == slot.start or ref in slot.tasks), None)
        if slot is None:  # it belonged to an actor that died in this very round
            return
        try:
            result = ray.get(ref)
        except RayActorError as error:
            yield from self._bury(slot, error)
            return
        except RayTaskError as error:
            if ref == slot.start:
                raise _ours(error) from error
            yield ShardFailure(slot.tasks.pop(ref).shard.index, _ours(error))
            return
        if ref == slot.start:
            slot.ready = True
            gpus = f", GPU {', '.join(map(str, result['gpus']))}" if result["gpus"] else ""
            yield PoolEvent("started", f"worker {result['pid']}{gpus}")
        else:
            del slot.tasks[ref]
            yield result

    def _bury(self, slot: _Slot, error: RayActorError) -> Iterator[Outcome]:
        self._slots.remove(slot)
        ray.kill(slot.actor)  # it may only have been out of reach
        self._deaths += 1
        yield PoolEvent("died", f"a worker died ({self._deaths} so far): {_first_line(error)}")
        if self._deaths > self._engine.max_worker_deaths:
            raise ResourceError(
                "workers keep dying",
                expected=f"at most {self._engine.max_worker_deaths} deaths (engine.max_worker_deaths)",
                found=f"{self._deaths}; the last: {_first_line(error)}",
                remedy="look for the cause in Ray's logs, then run the same command again",
            )
        for task in slot.tasks.values():
            yield from self._requeue(task)
        self._slots.append(self._new_slot())

    def _requeue(self, task: ShardTask) -> Iterator[Outcome]:
        index = task.shard.index
        suspects = read_trace(self._spec.layout.trace(index))
        self._blame[index] += 1 if suspects else 0
        if self._blame[index] >= _DEATHS_BEFORE_SEARCH:
            guilty = find_crashing_rows(
                without_rows(suspects, task.crashing_rows), survives=lambda rows: self._survives(task.fragment, rows)
            )
            if guilty:
                task = replace(task, crashing_rows=tuple(sorted({*task.crashing_rows, *guilty})))
                message = f"rows {list(guilty)} of {task.fragment.path} kill workers; they become error rows"
                yield PoolEvent("crashing_rows", message, shard=index, rows=guilty)
                self._blame[index] = 0
        if self._blame[index] >= _MAX_DEATHS_OF_A_SHARD:
            yield ShardFailure(
                index,
                ResourceError(
                    f"shard {index} killed {self._blame[index]} workers",
                    found="no single row that does it",
                    remedy="look for the cause in Ray's logs",
                ),
            )
            return
        self._waiting.appendleft(task)

    def _survives(self, fragment: Fragment, rows: tuple[int, ...]) -> bool:
        """Compute rows in a worker that is there for nothing else; a search does not count as deaths of the pool."""
        slot = self._new_slot()
        try:
            ray.get(slot.start)
            ray.get(slot.actor.probe.remote(fragment, rows))
        except RayActorError:
            return False
        except RayTaskError:
            return True  # an error it can report is no crash
        finally:
            ray.kill(slot.actor)
        return True

    def _new_slot(self) -> _Slot:
        options = {
            "num_cpus": self._plan.cpus,
            "num_gpus": self._plan.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": self._engine.in_flight_per_actor,
            "scheduling_strategy": "SPREAD",
        }
        remote_class: Any = ray.remote(ShardActor)
        actor = remote_class.options(**options).remote()
        return _Slot(actor, actor.start.remote(self._spec))


def _ours(error: RayTaskError) -> DistilbatchError:
    cause = error.cause
    if isinstance(cause, DistilbatchError):
        return cause
    return DistilbatchError(f"a worker failed: {type(cause).__name__}: {cause}", remedy="this is a bug; report it")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
