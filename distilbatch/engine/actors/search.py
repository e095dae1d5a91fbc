"""The search for rows that kill workers, on an actor that is there for nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from distilbatch.engine.actors.shard_actor import ActorSlot, Death, look_into_death, original_error
from distilbatch.engine.attempt import PROBE, take_trace
from distilbatch.engine.crashes import Rows, find_crashing_rows, without_rows
from distilbatch.engine.spec import ShardTask
from distilbatch.errors import ResourceError

_POLL_S = 0.5
_START_S = 120.0  # a full cluster may have no room for one more actor
_FRESH_DEATHS = 2


class CrashSearch:
    """Finds out which of a dead attempt's rows kill a worker all by themselves.

    Its deaths are no deaths of the pool. It keeps its actor from one question to the next, until the actor dies.

    Args:
        start: Asks for an actor.
        trace: Where workers leave the trace of a shard.
        stop: Once set, the search ends without a finding.
    """

    def __init__(self, start: Callable[[], ActorSlot], *, trace: Callable[[int], Path], stop: threading.Event) -> None:
        self._start = start
        self._trace = trace
        self._stop = stop
        self._slot: ActorSlot | None = None
        self._deaths: dict[int, Death] = {}  # by the row that was under way

    def search(self, task: ShardTask, suspects: dict[str, Rows]) -> dict[int, str]:
        """Name the guilty rows of the first stage that has any, with their errors.

        Args:
            task: The shard.
            suspects: The rows each stage was computing.

        Raises:
            ResourceError: Workers die whatever they compute.
        """
        try:
            for stage, rows in suspects.items():
                unknown = without_rows(rows, task.crashing_rows)
                if guilty := find_crashing_rows(unknown, dies_at=partial(self._dies_at, task, stage)):
                    return {row: self._deaths[row].error for row in guilty}
        finally:
            self._drop()
        return {}

    def _dies_at(self, task: ShardTask, stage: str, rows: Rows) -> int | None:
        slot = self._slot or self._fresh()
        if slot is None:
            return None
        try:
            self._wait(slot.actor.probe.remote(task, rows, stage))
        except RayTaskError:
            return None  # an error it can report is no crash
        except RayError as error:
            death = look_into_death(slot, error)
            self._drop()
            last = take_trace(self._trace(task.shard.index), PROBE)
            self._deaths |= dict.fromkeys(last, death)
            return last[0] if last else None
        return None

    def _fresh(self) -> ActorSlot | None:
        """Have an actor that is known to survive a harmless text; None when there is no room for one."""
        for attempt in range(1, _FRESH_DEATHS + 1):
            slot = self._slot = self._start()
            try:
                if self._wait(slot.start, timeout_s=_START_S) and self._wait(slot.actor.canary.remote()):
                    return slot
                break
            except RayTaskError as error:
                raise original_error(error) from error
            except RayError as error:
                death = look_into_death(slot, error)
                if attempt == _FRESH_DEATHS:
                    raise ResourceError(
                        "workers die before they have computed any row of the source",
                        found=death.cause,
                        remedy="look for the cause in the model, the machine and Ray's logs; the rows are not to blame",
                    ) from error
                self._drop()
        self._drop()
        return None

    def _wait(self, call: Any, *, timeout_s: float = float("inf")) -> bool:  # noqa: ANN401 - Ray's types are private
        give_up_at = time.monotonic() + timeout_s
        while time.monotonic() < give_up_at and not self._stop.is_set():
            if ray.wait([call], timeout=_POLL_S)[0]:
                ray.get(call)
                return True
        return False

    def _drop(self) -> None:
        if self._slot is not None:
            ray.kill(self._slot.actor)
            self._slot = None
