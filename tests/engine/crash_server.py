"""Forks a process for every run it is asked for, so that killing one costs milliseconds and not an import of torch.

Reads requests as JSON lines, answers each with what became of its runs. A request is a list of runs that start at the
same moment. ``kill`` is the number of the operation at which a run kills itself, before or ``after`` it;
``die_after_s`` kills it wherever it is then; ``largest_file`` stands for a full disk.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from fakes import FakeExecutor

from distilbatch.commit.store import LocalStore, Store
from distilbatch.engine.driver import Driver, resolve_run
from distilbatch.engine.executor import Executor
from distilbatch.engine.local import LocalExecutor
from distilbatch.errors import DistilbatchError

PR_SET_PTRACER = 0x59616D61


class KillSwitch:
    """Counts the operations of the main thread and kills the process at one of them.

    Args:
        kill: Number of the operation from 0, or None.
        after: Whether it happens first.
    """

    def __init__(self, kill: int | None, *, after: bool) -> None:
        self.trace: list[str] = []
        self._kill, self._after = kill, after

    def __call__(self, name: str, effect: Callable[[], object] = lambda: None):
        if threading.current_thread() is not threading.main_thread():
            return effect()  # the heartbeat beats when it likes; operations keep their numbers without it
        number = len(self.trace)
        self.trace.append(name)
        if number == self._kill and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = effect()
        if number == self._kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


class KillingStore(Store):
    """A real store behind a kill switch."""

    def __init__(self, switch: KillSwitch) -> None:
        self._switch = switch
        self._store = LocalStore()

    def put_new(self, path, data):
        return self._switch(f"put_new {path.parent.name}/{path.name}", lambda: self._store.put_new(path, data))

    def link_new(self, staged, final):
        return self._switch(f"link_new {final.name}", lambda: self._store.link_new(staged, final))

    def read(self, path, *, max_bytes):
        return self._switch(f"read {path.name}", lambda: self._store.read(path, max_bytes=max_bytes))

    def names(self, folder):
        return self._switch(f"names {folder.name}", lambda: self._store.names(folder))

    def size(self, path):
        return self._switch(f"size {path.name}", lambda: self._store.size(path))

    def replace(self, path, data):
        return self._switch(f"replace {path.name}", lambda: self._store.replace(path, data))

    def remove(self, path):
        return self._switch(f"remove {path.suffix}", lambda: self._store.remove(path))


class CountingExecutor(Executor):
    """The local executor, noting the shards it is asked for."""

    def __init__(self, spec, log: Path) -> None:
        self._spec, self._log = spec, log

    def run(self, tasks, *, stop):
        with self._log.open("a") as log:
            log.writelines(f"{task.shard.index}\n" for task in tasks)
        yield from LocalExecutor(self._spec).run(tasks, stop=stop)


def run(request: dict) -> dict:
    """Do one run in this process; returns what became of it."""
    switch = KillSwitch(request.get("kill"), after=request.get("after", False))
    log = Path(request["log"])

    def executor(job, spec):
        if request.get("real"):
            return CountingExecutor(spec, log)
        return FakeExecutor(spec, log=log, failpoint=switch)

    if "die_after_s" in request:
        # Nobody handles the alarm, so it kills wherever the process happens to be.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, request["die_after_s"])
    if "largest_file" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"], request["largest_file"]))
    try:
        job = resolve_run(request["config"], day=request.get("day"), limit=request.get("limit"))
        report = Driver(job, store=KillingStore(switch), make_executor=executor).run()
    except DistilbatchError as error:
        return {"exit": error.exit_code, "error": str(error), "trace": switch.trace}
    return {"exit": 0, "state": report.state, "rows": report.num_rows, "trace": switch.trace}


def start(request: dict, gate: int, ready: int) -> tuple[int, int]:
    """Fork a process for a run; returns its id and the end of a pipe that its answer comes out of."""
    result, out = os.pipe()
    child = os.fork()
    if child:
        os.close(out)
        return child, result
    os.close(result)
    os.write(ready, b"r")
    os.read(gate, 1)
    with os.fdopen(out, "w") as file:
        try:
            outcome = run(request)
        except BaseException:
            outcome = {"exit": 1, "error": traceback.format_exc()}
        json.dump(outcome, file)
    os._exit(0)


def serve(requests: list[dict]) -> list[dict]:
    """Run all requests at the same time, each in a process of its own."""
    gate, opener = os.pipe()
    waiting, ready = os.pipe()
    children = []
    for request in requests:
        children.append(start(request, gate, ready))
    for _ in children:
        os.read(waiting, 1)
    os.write(opener, b"g" * len(children))
    answers = []
    for child, result in children:
        with os.fdopen(result) as file:
            text = file.read()
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) in {signal.SIGKILL, signal.SIGALRM}
        answers.append({"killed": True} if killed else json.loads(text))
    for handle in (gate, opener, waiting, ready):
        os.close(handle)
    return answers


def answer(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.nn.Embedding(1, 1, device="meta")  # imports what loading a model would
    importlib.import_module("pandas")  # and pyarrow
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1))  # so that strace may attach
    answer("ready")
    for line in sys.stdin:
        answer(json.dumps(serve(json.loads(line))))
