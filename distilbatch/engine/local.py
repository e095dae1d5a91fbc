"""The executor without Ray: one worker in this process, two shards under way."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from typing_extensions import override

from distilbatch.engine.executor import Executor
from distilbatch.engine.failures import as_ours
from distilbatch.engine.heads import Heads
from distilbatch.engine.spec import Outcome, ShardFailure, ShardTask, WorkerSpec
from distilbatch.engine.worker import Worker
from distilbatch.records import ShardResult

# While one shard is decoded, written and synced, the next one is read, tokenized and predicted.
_SHARDS_UNDER_WAY = 2
_POLL_S = 0.2


class LocalExecutor(Executor):
    """Runs shards in this process.

    A row that kills its process ends the run with it; the Ray engine survives that.

    Args:
        spec: What the worker does.
        heads: The models, if they are loaded already.
        shutdown_grace_s: Seconds that shards under way get to finish after a stop. One that takes longer, in a hook
            for one, is left to its thread, which does not keep the process from ending; it cannot commit anything.
    """

    def __init__(self, spec: WorkerSpec, *, heads: Heads | None = None, shutdown_grace_s: float = 30.0) -> None:
        self._spec = spec
        self._heads = heads
        self._grace_s = shutdown_grace_s

    @override
    def run(self, tasks: Sequence[ShardTask], *, stop: threading.Event) -> Iterator[Outcome]:
        worker = Worker(self._spec, heads=self._heads)
        waiting = iter(tasks)
        outcomes: queue.SimpleQueue[ShardResult | ShardFailure] = queue.SimpleQueue()
        threads: dict[int, threading.Thread] = {}
        give_up_at: float | None = None
        try:
            while True:
                while len(threads) < _SHARDS_UNDER_WAY and not stop.is_set():
                    task = next(waiting, None)
                    if task is None:
                        break
                    threads[task.shard.index] = _start(worker, task, outcomes, stop)
                if not threads:
                    return
                if stop.is_set() and give_up_at is None:
                    give_up_at = time.monotonic() + self._grace_s
                if give_up_at is not None and time.monotonic() >= give_up_at:
                    return
                try:
                    outcome = outcomes.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                threads.pop(outcome.index).join()
                yield outcome
        finally:
            # Also when the driver stops listening: the shards under way give up at their next token batch.
            if threads:
                stop.set()
                _join(threads.values(), until=give_up_at or time.monotonic() + self._grace_s)


def _start(
    worker: Worker,
    task: ShardTask,
    outcomes: queue.SimpleQueue[ShardResult | ShardFailure],
    stop: threading.Event,
) -> threading.Thread:
    def work() -> None:
        try:
            outcomes.put(worker.process(task, stop=stop))
        except BaseException as error:  # a hook may call sys.exit()
            outcomes.put(ShardFailure(task.shard.index, as_ours(error)))

    # A thread of a pool would be waited for when the process ends, however long that takes.
    thread = threading.Thread(target=work, name=f"shard-{task.shard.index}", daemon=True)
    thread.start()
    return thread


def _join(threads: Iterable[threading.Thread], *, until: float) -> None:
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
