"""SIGINT and SIGTERM: the first one stops a run at a resumable point, the second one at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_REARM_S = 1.0
_SHOW_CURSOR = b"\x1b[?25h"

_log = logging.getLogger("distilbatch")


def call_interruptibly(work: Callable[[], T], *, resumable: threading.Event, stop: threading.Event) -> T:
    """Call ``work`` in a thread of its own and return what it returns.

    The main thread only waits, so that it can act on a signal at any moment. It also keeps Ray, which would take
    SIGTERM over in the main thread and exit with a code of its own, from doing so.

    Args:
        work: The work.
        resumable: Set by the work once it can be resumed; before, a signal ends the process.
        stop: Set by the first signal after that; the next one ends the process.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if not resumable.is_set() or stop.is_set():
            if os.isatty(2):
                os.write(2, _SHOW_CURSOR)  # a progress bar hides it
            os._exit(128 + number)
        stop.set()
        name = signal.Signals(number).name
        _log.warning("%s: stopping; the same command resumes. A second signal ends the program at once", name)

    with _handling(handle) as arm, ThreadPoolExecutor(1, thread_name_prefix="run") as pool:
        called = pool.submit(work)
        while not wait([called], timeout=_REARM_S).done:
            arm()
        return called.result()


@contextmanager
def _handling(handle: Callable[[int, FrameType | None], None]) -> Iterator[Callable[[], None]]:
    """Handle signals inside the block; gives what makes it so again.

    Ray installs a handler of its own below Python's when it starts, which prints a stack trace before ours is called.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    # A shell has its background jobs ignore SIGINT: Ctrl-C is meant for the one in front.
    ours = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def arm() -> None:
        for number in ours:
            signal.signal(number, handle)

    arm()
    try:
        yield arm
    finally:
        for number in ours:
            signal.signal(number, before[number])
