"""Overlap of the stages of a worker: each runs in a thread of its own, joined by bounded queues."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from distilbatch.engine.watchdog import Watchdog

ItemT = TypeVar("ItemT")

_POLL_S = 0.1


class _End:
    """Marks the end of a queue, with the error that ended it early."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Background(Generic[ItemT]):
    """Iterates ``items`` in a thread, a bounded number ahead of its consumer.

    The consumer gets every item in order, then the producer's exception if there was one. Closing it, also half
    way, ends the thread and closes ``items``; nothing is left running.

    Args:
        items: What to iterate; used by the thread only.
        depth: Finished items that wait in the queue; the thread holds one more.
    """

    def __init__(self, items: Iterable[ItemT], *, depth: int = 1) -> None:
        self._items = items
        self._queue: queue.Queue[ItemT | _End] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="stage", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[ItemT]:
        try:
            while not isinstance(item := self._queue.get(), _End):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            self.close()

    def close(self) -> None:
        """End the thread, whatever it is waiting for."""
        self._closed.set()
        self._thread.join()

    def _produce(self) -> None:
        error: BaseException | None = None
        try:
            iterator = iter(self._items)
            for item in iterator:
                if not self._put(item):
                    break
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        except BaseException as caught:  # carried to the consumer, which raises it
            error = caught
        self._put(_End(error))

    def _put(self, item: ItemT | _End) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False


class StageClock:
    """Busy seconds by stage; each stage is timed by the one thread that runs it.

    Args:
        watchdog: Watches what is measured; None for nobody.
        shard: What it is a part of.
    """

    def __init__(self, watchdog: Watchdog | None = None, shard: int | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._watchdog = watchdog or Watchdog(None)
        self._shard = shard

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of a block to ``stage``."""
        start = time.perf_counter()
        try:
            with self._watchdog.step(stage, self._shard):
                yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def measure_each(self, stage: str, items: Iterator[ItemT]) -> Iterator[ItemT]:
        """Iterate ``items``, and add the time that they take to ``stage``."""
        while True:
            with self.measure(stage):
                item = next(items, None)
            if item is None:
                return
            yield item

    def beat(self, stage: str) -> None:
        """Give a sign of life of a stage whose block goes on; see :class:`~distilbatch.engine.watchdog.Watchdog`."""
        self._watchdog.beat(stage)

    def add(self, stage: str, seconds: float) -> None:
        """Add time that was measured elsewhere."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
