"""The executor without Ray: one worker in this process, two shards under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from typing_extensions import override

from distilbatch.engine.executor import Executor
from distilbatch.engine.failures import as_ours
from distilbatch.engine.heads import Heads
from distilbatch.engine.spec import Outcome, ShardFailure, ShardTask, WorkerSpec
from distilbatch.engine.worker import Worker
from distilbatch.records import ShardResult

# While one shard is decoded, written and synced, the next one is read, tokenized and predicted.
_SHARDS_UNDER_WAY = 2


class LocalExecutor(Executor):
    """Runs shards in this process.

    A row that kills its process ends the run with it; the Ray engine survives that.

    Args:
        spec: What the worker does.
        heads: The models, if they are loaded already.
    """

    def __init__(self, spec: WorkerSpec, *, heads: Heads | None = None) -> None:
        self._spec = spec
        self._heads = heads

    @override
    def run(self, tasks: Sequence[ShardTask], *, stop: threading.Event) -> Iterator[Outcome]:
        worker = Worker(self._spec, heads=self._heads)
        waiting = iter(tasks)
        futures: dict[Future[ShardResult], int] = {}
        with ThreadPoolExecutor(_SHARDS_UNDER_WAY, thread_name_prefix="shard") as pool:
            try:
                while True:
                    while len(futures) < _SHARDS_UNDER_WAY and not stop.is_set():
                        task = next(waiting, None)
                        if task is None:
                            break
                        futures[pool.submit(worker.process, task, stop=stop)] = task.shard.index
                    if not futures:
                        return
                    finished, _ = wait(futures, return_when=FIRST_COMPLETED)
                    for future in finished:
                        yield _outcome(future, futures.pop(future))
            finally:
                # Also when the driver stops listening: the shards under way give up at their next token batch.
                if futures:
                    stop.set()


def _outcome(future: Future[ShardResult], index: int) -> Outcome:
    try:
        return future.result()
    except Exception as error:
        return ShardFailure(index, as_ours(error))
