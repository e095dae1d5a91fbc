"""Layers B and C: real processes on real files, killed at every operation, twice, at random, and by system calls."""

from __future__ import annotations

import json
import logging
import os
import random
import secrets
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_samples import random_texts, write_checkpoint, write_source
from fakes import Workspace, files_below, published_places

from distilbatch.records import StagedFile

SERVER = Path(__file__).with_name("crash_server.py")


def fresh_seed() -> int:
    """A seed that a failure shows and DISTILBATCH_TEST_SEED repeats."""
    seed = int(os.environ.get("DISTILBATCH_TEST_SEED") or secrets.randbits(32))
    logging.getLogger("tests").warning("DISTILBATCH_TEST_SEED=%d", seed)
    return seed


class CrashServer:
    """Starts runs in processes that can be killed; see ``crash_server.py``."""

    def __init__(self) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        path = os.pathsep.join([str(SERVER.parents[1]), str(SERVER.parents[2])])
        self.process = subprocess.Popen([sys.executable, str(SERVER)], env={**os.environ, "PYTHONPATH": path}, **pipes)
        assert self.process.stdout.readline() == "ready\n"

    def runs(self, *requests: dict) -> list[dict]:
        """Do runs at the same time; returns what became of each."""
        self.process.stdin.write(json.dumps(requests) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server() -> Iterator[CrashServer]:
    server = CrashServer()
    yield server
    server.close()


class Trial:
    """A sink of its own for one schedule of crashes over a shared source.

    Args:
        workspace: The source.
        server: Runs it.
        name: Names the sink.
    """

    def __init__(self, workspace: Workspace, server: CrashServer, name: str, **request: object) -> None:
        self.workspace, self.server = workspace, server
        self.sink = workspace.root / name
        self.run_folder = self.sink / "_distilbatch" / "nightly" / "once"
        self.log = workspace.root / f"{name}.log"
        config = request.pop("config", workspace.config())
        config = {**config, "sink": {**config["sink"], "path": str(self.sink)}}
        self.request = {"config": config, "log": str(self.log), **request}

    def run(self, **request: object) -> dict:
        return self.server.runs({**self.request, **request})[0]

    def computed(self) -> list[int]:
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []

    def recorded(self) -> set[int]:
        return {int(path.stem) for path in self.run_folder.glob("shards/*.json")}

    def crash(self, **request: object) -> bool:
        """Run and perhaps be killed; checks what the dead process left. Returns whether it was killed."""
        recorded, computed = self.recorded(), len(self.computed())
        answer = self.run(**request)
        assert answer.get("killed") or answer["exit"] == 0, answer
        assert not recorded & set(self.computed()[computed:]), "a recorded shard was computed again"
        visible = files_below(self.sink / "data")
        if not (self.run_folder / "commit.json").exists():
            assert visible == []
        whole = {file.size_bytes for file in self.recorded_files()}
        assert {(self.sink / "data" / name).stat().st_size for name in visible} <= whole
        assert max(Counter(published_places(self.sink)).values(), default=1) == 1
        return bool(answer.get("killed"))

    def recorded_files(self) -> list[StagedFile]:
        records = [json.loads(path.read_text()) for path in self.run_folder.glob("shards/*.json")]
        return [StagedFile(**file) for record in records for file in record["files"]]

    def finish(self) -> None:
        """Run to the end, and compare with what should be there."""
        recorded, computed = self.recorded(), len(self.computed())
        answer = self.run()
        assert answer["exit"] == 0, answer
        assert not recorded & set(self.computed()[computed:]), "a recorded shard was computed again"
        assert published_places(self.sink) == self.workspace.source_places()
        assert all(name.endswith(".parquet") and "/." not in f"/{name}" for name in files_below(self.sink / "data"))
        assert len(list(self.run_folder.glob("*.json"))) == 5  # plan, precision, commit, done, metrics
        assert files_below(self.run_folder / "staging") == []


def operations(workspace: Workspace, server: CrashServer, **request: object) -> list[str]:
    """What a run without a fault does, in order."""
    trial = Trial(workspace, server, "undisturbed", **request)
    answer = trial.run()
    assert answer["exit"] == 0, answer
    return answer["trace"]


def test_a_run_killed_at_any_operation_is_finished_by_the_next_one(workspace, server):
    trace = operations(workspace, server)
    assert len(trace) > 60
    # Before each; right after one is right before the next one.
    for number, after in [*((number, False) for number in range(len(trace))), (len(trace) - 1, True)]:
        trial = Trial(workspace, server, f"kill-{number}-{after}")
        assert trial.crash(kill=number, after=after), f"{trace[number]} was not reached"
        trial.finish()
        shutil.rmtree(trial.sink)


def test_a_recovery_may_be_killed_as_well(workspace, server):
    operations_of_a_run = len(operations(workspace, server))
    rng = random.Random(fresh_seed())
    twice = 0
    for number in range(40):
        trial = Trial(workspace, server, f"pair-{number}")
        crashes = [trial.crash(kill=rng.randrange(operations_of_a_run), after=rng.random() < 0.5) for _ in range(2)]
        twice += all(crashes)
        trial.finish()
        shutil.rmtree(trial.sink)
    assert twice > 10


def test_of_two_runs_at_the_same_time_one_labels_and_both_are_right(workspace, server):
    for number in range(20):
        trial = Trial(workspace, server, f"twins-{number}")
        answers = server.runs(trial.request, trial.request)
        exits = sorted(answer["exit"] for answer in answers)
        assert exits in ([0, 0], [0, 75]), answers
        assert sorted(trial.computed()) == [0, 1, 2, 3]  # nothing twice
        assert trial.workspace.source_places() == published_places(trial.sink)
        trial.finish()


def test_windows_that_are_planned_at_the_same_time_share_the_rows(workspace, server):
    windows = [{"day": "2026-01-01"}, {"day": "2026-01-02"}, {"day": "2026-01-02", "limit": 3}]
    for number in range(8):
        trial = Trial(workspace, server, f"windows-{number}")
        answers = server.runs(*({**trial.request, **window} for window in windows))
        # A window that another one has begun to finish is busy; it is labelled all the same.
        assert {answer["exit"] for answer in answers} <= {0, 75}, answers
        assert 0 in {answer["exit"] for answer in answers}
        for window in windows:
            assert trial.run(**window)["exit"] == 0
        assert published_places(trial.sink) == workspace.source_places()


def test_the_model_is_run_again_only_for_shards_that_were_not_recorded(tmp_path, server):
    model = write_checkpoint(tmp_path / "model")
    workspace = Workspace(tmp_path, rows_per_shard=8)
    write_source(workspace.source, random_texts(40), files=2)
    config = {**workspace.config(threads=1, device="cpu"), "sink": {"path": "", "passthrough": ["id"]}}
    config["annotate"] = [{"name": "topic", "task": "text-classification", "model": str(model)}]
    request = {"config": config, "real": True}
    undisturbed = Trial(workspace, server, "undisturbed", **request)
    start = time.monotonic()
    undisturbed.finish()
    seconds = time.monotonic() - start
    rng = random.Random(fresh_seed())
    killed = 0
    for number in range(8):
        trial = Trial(workspace, server, f"any-{number}", **request)
        for _ in range(2):
            killed += trial.crash(die_after_s=rng.uniform(0.01, seconds))
        trial.finish()
    assert killed > 3


def test_a_full_disk_stops_the_run_and_room_resumes_it(workspace, server):
    trial = Trial(workspace, server, "full")
    smallest = min(path.stat().st_size for path in (workspace.source).rglob("*.parquet"))
    answer = trial.run(largest_file=smallest)
    assert answer["exit"] == 7, answer
    assert "then run the same command again" in answer["error"]
    assert files_below(trial.sink / "data") == []
    assert [name for name in files_below(trial.sink) if name.endswith(".tmp")] == []
    trial.finish()


class Strace:
    """Makes system calls of the server's processes fail, or be their last, for a while.

    Args:
        server: The server.
        inject: What strace's ``-e inject=`` gets.
    """

    def __init__(self, server: CrashServer, inject: str) -> None:
        call = inject.split(":", maxsplit=1)[0]
        command = ["strace", "-f", "-qq", "-o", os.devnull, "-p", str(server.process.pid)]
        self._status = Path(f"/proc/{server.process.pid}/status")
        self._tracer = subprocess.Popen([*command, "-e", f"trace={call}", "-e", f"inject={inject}"])

    def __enter__(self) -> Strace:
        deadline = time.monotonic() + 20
        while "TracerPid:\t0\n" in self._status.read_text():
            if self._tracer.poll() is not None or time.monotonic() > deadline:
                self._tracer.kill()
                self._tracer.wait()
                pytest.skip("strace cannot attach: ptrace is forbidden here")
            time.sleep(0.01)
        return self

    def __exit__(self, *error: object) -> None:
        self._tracer.terminate()
        self._tracer.wait(timeout=20)


@pytest.fixture
def strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")


@pytest.mark.parametrize("call", ["link", "fsync", "unlink", "rename"])
def test_a_run_killed_in_a_system_call_is_finished_by_the_next_one(workspace, server, strace, call):
    killed = 0
    for number in (1, 2, 4, 7, 11):
        trial = Trial(workspace, server, f"{call}-{number}")
        with Strace(server, f"{call}:signal=SIGKILL:when={number}"):
            killed += trial.crash()
        trial.finish()
    assert killed >= 2


@pytest.mark.parametrize(("call", "error"), [("fsync", "EIO"), ("link", "EIO"), ("fsync", "ENOSPC")])
def test_what_a_system_call_refuses_is_never_published(workspace, server, strace, call, error):
    for number in (1, 3, 6, 9):
        trial = Trial(workspace, server, f"{call}-{error}-{number}")
        with Strace(server, f"{call}:error={error}:when={number}"):
            answer = trial.run()
        assert answer["exit"] == {"EIO": 6, "ENOSPC": 7}[error], answer
        assert [name for name in files_below(trial.sink) if name.endswith(".tmp")] == []
        trial.finish()
