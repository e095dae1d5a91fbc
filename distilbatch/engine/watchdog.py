"""Tells a worker that hangs from one that is slow: which steps of its work are under way, and since when.

A step is some work of a stage on one batch, so that a shard may take as long as it likes. Waiting is no work: who waits
for another stage has no step, and steps that wait for each other are told of each other's progress.
"""

from __future__ import annotations

import faulthandler
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

STACKS_BEGIN = "Timeout ("  # as faulthandler heads them
_SLACK = 0.125  # of the limit, by which an alarm may be late: setting one takes 0.1 ms


@dataclass(frozen=True, slots=True)
class Hang:
    """A step of which nothing came.

    Args:
        stage: Its stage.
        shard: Its shard; None where it belongs to none.
        seconds: Since its last sign of life.
    """

    stage: str
    shard: int | None
    seconds: float


@dataclass(eq=False, slots=True)
class _Step:
    stage: str
    shard: int | None
    since: float


class Watchdog:
    """Knows the steps that are under way in a process. Threads share it.

    Args:
        limit_s: How long a step may give no sign of life; None watches nothing.
        alarm: Called with the seconds after which to go off unless it is called again, or with None for never. Goes
            off when the limit is over, or up to an eighth of it later.
    """

    def __init__(
        self, limit_s: float | None, *, alarm: Callable[[float | None], object] = lambda _seconds: None
    ) -> None:
        self._limit_s = limit_s
        self._alarm = alarm
        self._lock = threading.Lock()
        self._steps: list[_Step] = []
        self._set_for: float | None = None  # when the step began that the alarm is set for

    @contextmanager
    def step(self, stage: str, shard: int | None = None) -> Iterator[None]:
        """Watch a block, which has to end, or to give a sign of life, within the limit."""
        step = _Step(stage, shard, time.monotonic())
        with self._lock:
            self._steps.append(step)
            self._set_alarm()
        try:
            yield
        finally:
            with self._lock:
                self._steps.remove(step)
                self._set_alarm()

    def beat(self, stage: str) -> None:
        """Give a sign of life of every step of a stage: of one that works, and of those that wait for their turn."""
        now = time.monotonic()
        with self._lock:
            for step in self._steps:
                if step.stage == stage:
                    step.since = now
            self._set_alarm()

    def hang(self) -> Hang | None:
        """The step that has been over the limit for longest, if one is."""
        if self._limit_s is None:
            return None
        with self._lock:
            oldest = min(self._steps, key=lambda step: step.since, default=None)
        seconds = 0.0 if oldest is None else time.monotonic() - oldest.since
        return None if oldest is None or seconds < self._limit_s else Hang(oldest.stage, oldest.shard, seconds)

    def _set_alarm(self) -> None:
        if self._limit_s is None:
            return
        oldest = min((step.since for step in self._steps), default=None)
        slack = self._limit_s * _SLACK
        if oldest is None:
            if self._set_for is not None:
                self._alarm(None)
        elif self._set_for is None or oldest - self._set_for >= slack:
            self._alarm(oldest + self._limit_s + slack - time.monotonic())
        else:
            return
        self._set_for = oldest


class EndWithStacks:
    """An alarm that writes the stacks of all threads to a file and ends the process, with exit code 1.

    A thread below Python does it, which no call that keeps the interpreter to itself holds up.

    Args:
        file: Where they go; open as long as the process lives.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __call__(self, seconds: float | None) -> None:
        """Go off after so many seconds from now, in place of what was said before; None for never."""
        if seconds is None:
            faulthandler.cancel_dump_traceback_later()
        else:
            faulthandler.dump_traceback_later(max(seconds, 0.001), file=self._file, exit=True)


def stacks_here() -> str:
    """The stacks of all threads of this process."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode("utf-8", errors="replace")
