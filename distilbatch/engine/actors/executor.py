"""Dispatches shards to actors, a bounded number at a time, and replaces actors that die.

Calls are at-most-once; the dispatcher re-queues shards itself, so that a shard that kills its actor is not
replayed for ever. Nothing but shard descriptors and small results passes through the driver.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from typing_extensions import override

from distilbatch.config import Engine
from distilbatch.engine.actors.cluster import connected
from distilbatch.engine.actors.search import CrashSearch
from distilbatch.engine.actors.shard_actor import (
    ActorSlot,
    Death,
    look_into_death,
    next_slot,
    original_error,
    start_actor,
)
from distilbatch.engine.actors.slots import Slots, alive_nodes, describe_nodes, plan_slots
from distilbatch.engine.attempt import STAGES, take_trace
from distilbatch.engine.crashes import CRASH_MESSAGE, probe_timeout_s
from distilbatch.engine.executor import Executor
from distilbatch.engine.spec import Outcome, PoolEvent, ShardFailure, ShardTask, WorkerSpec
from distilbatch.errors import ResourceError
from distilbatch.records import ShardResult
from distilbatch.shards.planner import text_bytes_of

_POLL_S = 0.5
_WAIT_S = 60.0  # for a first process, until the user is told that there is none
_MAX_DEATHS_AT_START = 4  # and as many as there are actors, while no worker has ever been ready
_DEATHS_BEFORE_SEARCH = 2
_MAX_DEATHS_OF_A_SHARD = 6
_MAX_CRASHING_ROWS = 100

_log = logging.getLogger("distilbatch")


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
            text_bytes = sum(text_bytes_of(task.fragment, task.shard) for task in tasks)
            slots = plan_slots(self._engine, num_shards=len(tasks), text_bytes=text_bytes)
            pool = _Pool(self._spec, self._engine, slots, stop)
            try:
                yield from pool.run(tasks)
            finally:
                pool.kill()


class _Pool:
    def __init__(self, spec: WorkerSpec, engine: Engine, slots: Slots, stop: threading.Event) -> None:
        device = replace(spec.device, threads=slots.threads)
        if not slots.gpus:
            # Ray leaves every GPU of the machine visible to actors that reserved none.
            device = replace(device, device="cpu")
        self._spec = replace(spec, device=device)
        self._engine = engine
        self._plan = slots
        self._stop = stop
        self._slots: list[ActorSlot] = []
        self._waiting: deque[ShardTask] = deque()
        self._ever_ready = False
        self._warn_at = time.monotonic() + _WAIT_S
        self._deaths = 0
        self._blame: Counter[int] = Counter()
        self._num_crashing_rows = 0

    def run(self, tasks: Sequence[ShardTask]) -> Iterator[Outcome]:
        self._waiting.extend(tasks)
        self._slots = [self._new_slot() for _ in range(self._plan.actors)]
        give_up_at: float | None = None
        while self._waiting or any(slot.tasks for slot in self._slots):
            if self._stop.is_set():
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
            if not self._ever_ready and time.monotonic() >= self._warn_at:
                self._warn_if_nobody_is_placed()

    def kill(self) -> None:
        """End every actor, whatever it is doing."""
        for slot in self._slots:
            ray.kill(slot.actor)

    def _assign(self) -> None:
        while slot := next_slot(self._slots, waiting=len(self._waiting), most=self._engine.in_flight_per_actor):
            task = self._waiting.popleft()
            slot.tasks[slot.actor.process.remote(task)] = task

    def _warn_if_nobody_is_placed(self) -> None:
        self._warn_at = float("inf")
        if ray.wait([slot.placed for slot in self._slots], timeout=0)[0]:
            return  # models take their time to load
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        _log.warning(
            "no worker has found a place for %g s: %d of %g CPUs and %g GPUs each were asked for; the cluster has %s, "
            "of which %g CPUs and %g GPUs are free; the run goes on once there is room for one, so end what else runs "
            "there, or stop this run and lower engine.cpus_per_actor or engine.gpus_per_actor",
            _WAIT_S,
            self._plan.actors,
            self._plan.cpus,
            self._plan.gpus,
            describe_nodes(alive_nodes()),
            free.get("CPU", 0),
            free.get("GPU", 0),
        )

    def _collect(self, ref: Any) -> Iterator[Outcome]:  # noqa: ANN401 - Ray's reference type is private
        slot = next(slot for slot in self._slots if ref == slot.start or ref in slot.tasks)
        try:
            result = ray.get(ref)
        except RayTaskError as error:
            if ref == slot.start:
                raise original_error(error) from error
            yield ShardFailure(slot.tasks.pop(ref).shard.index, original_error(error))
            return
        except RayError as error:  # the actor's process, its node or the way to it is gone
            yield from self._bury(slot, error)
            return
        if ref == slot.start:
            self._ever_ready = True
            slot.ready = True
            gpus = f", GPU {', '.join(map(str, result['gpus']))}" if result["gpus"] else ""
            asked, found = self._spec.device.precision, result["precision"]
            other = f", in {found} for want of {asked}" if asked not in {"auto", found} else ""
            yield PoolEvent("started", f"worker {result['pid']}{gpus}{other}")
        else:
            del slot.tasks[ref]
            yield result

    def _bury(self, slot: ActorSlot, error: RayError) -> Iterator[Outcome]:
        self._slots.remove(slot)
        ray.kill(slot.actor)  # it may only have been out of reach
        self._deaths += 1
        death = look_into_death(slot, error)
        yield PoolEvent("died", f"a worker died ({self._deaths} so far): {death.cause}")
        self._refuse_more_deaths(death)
        for ref, task in slot.tasks.items():
            result = _finished(ref)
            if result is not None:
                yield result
            else:
                yield from self._requeue(task, death)
        self._slots.append(self._new_slot())

    def _refuse_more_deaths(self, death: Death) -> None:
        limit = self._engine.max_worker_deaths
        if self._deaths > limit:
            raise ResourceError(
                "workers keep dying",
                expected=f"at most {limit} deaths (engine.max_worker_deaths)",
                found=f"{self._deaths}; the last: {death.cause}",
                remedy=f"{death.remedy}, then run the same command again",
            )
        if not self._ever_ready and self._deaths >= max(_MAX_DEATHS_AT_START, self._plan.actors + 1):
            raise ResourceError(
                "workers die while they load the model",
                found=f"{self._deaths} deaths; the last: {death.cause}",
                remedy=f"{death.remedy}, then run the same command again",
            )

    def _requeue(self, task: ShardTask, death: Death) -> Iterator[Outcome]:
        index = task.shard.index
        suspects = {stage: take_trace(self._spec.layout.trace(index), stage) for stage in STAGES}
        self._blame[index] += any(suspects.values())
        if self._blame[index] and self._blame[index] % _DEATHS_BEFORE_SEARCH == 0:
            search = CrashSearch(self._new_probe, trace=self._spec.layout.trace, stop=self._stop)
            if guilty := search.search(task, suspects):
                task = replace(task, crashing_rows={**task.crashing_rows, **guilty})
                yield from _told(task, guilty)
                self._forgive(index, guilty)
        if self._blame[index] >= _MAX_DEATHS_OF_A_SHARD:
            yield ShardFailure(
                index,
                ResourceError(
                    f"shard {index} killed {self._blame[index]} workers",
                    found=f"no single row that does it; the last: {death.cause}",
                    remedy=death.remedy,
                ),
            )
            return
        self._waiting.appendleft(task)

    def _forgive(self, index: int, guilty: Collection[int]) -> None:
        """Deaths that are explained by rows are none of the budget's; too many such rows are."""
        self._deaths = max(0, self._deaths - self._blame.pop(index))
        self._num_crashing_rows += len(guilty)
        if self._num_crashing_rows > _MAX_CRASHING_ROWS:
            raise ResourceError(
                "too many rows kill their worker",
                expected=f"at most {_MAX_CRASHING_ROWS} in a run",
                found=str(self._num_crashing_rows),
                remedy="look for the cause in the model or the hooks, then run the same command again",
            )

    def _new_slot(self) -> ActorSlot:
        return start_actor(self._spec, self._engine, self._plan)

    def _new_probe(self) -> ActorSlot:
        """An actor that computes row by row, and is not given the time of a batch for each of them."""
        limit = self._spec.hang_timeout_s
        spec = replace(self._spec, hang_timeout_s=None if limit is None else probe_timeout_s(limit))
        return start_actor(spec, self._engine, self._plan)


def _told(task: ShardTask, guilty: Mapping[int, str]) -> Iterator[PoolEvent]:
    """The rows that were found, those with the same error together."""
    for error in dict.fromkeys(guilty.values()):
        rows = tuple(row for row in guilty if guilty[row] == error)
        what = "kill" if error == CRASH_MESSAGE else "hang"
        message = f"rows {list(rows)} of {task.fragment.path} {what} workers; they become error rows"
        yield PoolEvent("crashing_rows", message, shard=task.shard.index, rows=rows, error=error)


def _finished(ref: Any) -> ShardResult | None:  # noqa: ANN401 - Ray's reference type is private
    """The result of a call that an actor answered before it died."""
    try:
        result: ShardResult = ray.get(ref, timeout=0)
    except RayError:
        return None
    return result
