"""The executor without Ray: one worker in this process, two shards under way."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from typing_extensions import override

from distilbatch.engine.attempt import STAGES, take_trace
from distilbatch.engine.executor import Executor
from distilbatch.engine.failures import as_ours
from distilbatch.engine.heads import Heads
from distilbatch.engine.spec import Outcome, ShardFailure, ShardTask, WorkerSpec
from distilbatch.engine.watchdog import Hang, Watchdog, stacks_here
from distilbatch.engine.worker import Worker
from distilbatch.errors import ResourceError
from distilbatch.records import ShardResult

# While one shard is decoded, written and synced, the next one is read, tokenized and predicted.
_SHARDS_UNDER_WAY = 2
_POLL_S = 0.2

_log = logging.getLogger("distilbatch")


class LocalExecutor(Executor):
    """Runs shards in this process.

    A row that kills its process ends the run with it, and one that hangs ends it with an error; the Ray engine survives
    both. One that hangs without letting other threads run is not even seen.

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
        watchdog = Watchdog(self._spec.hang_timeout_s)
        worker = Worker(self._spec, heads=self._heads, watchdog=watchdog)
        waiting = iter(tasks)
        outcomes: queue.SimpleQueue[ShardResult | ShardFailure] = queue.SimpleQueue()
        threads: dict[int | None, threading.Thread] = {}
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
                if give_up_at is None and (hang := watchdog.hang()) is not None:
                    threads.pop(hang.shard, None)  # which nobody waits for
                    raise _hung(self._spec, tasks, hang)
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


def _hung(spec: WorkerSpec, tasks: Sequence[ShardTask], hang: Hang) -> ResourceError:
    _log.warning("the stacks of all threads, one of which hangs:\n%s", stacks_here().strip())
    where = ""
    for task in tasks:
        if task.shard.index == hang.shard:
            rows = take_trace(spec.layout.trace(task.shard.index), hang.stage) if hang.stage in STAGES else ()
            where = f" of {f'rows {rows[0]} to {rows[-1]} of ' if rows else ''}{task.fragment.path}"
    return ResourceError(
        f"shard {hang.shard} hangs",
        expected=f"progress within {spec.hang_timeout_s:g} s (engine.hang_timeout_s)",
        found=f"none for {hang.seconds:.0f} s in the stage {hang.stage}{where}; the stacks are in the log",
        remedy="run the same command again with -s engine.type=ray, which makes error rows of rows that hang; or raise "
        "engine.hang_timeout_s if the work only needs longer",
    )


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
