"""The Ray engine in processes of its own: other clusters, and drivers that are killed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from engine_samples import assert_exact, config_of, query, random_texts, write_source

import distilbatch

pytestmark = pytest.mark.ray

PROGRAMS = Path(__file__).with_name("ray_programs.py")
SLOW = """
import time
from distilbatch import Pipeline, TextClassification

def before(batch):
    time.sleep(0.05)
    return batch

PIPELINE = Pipeline(annotate=[TextClassification(name="topic")], before=before)
"""


class Program:
    """One of ``ray_programs.py`` in a session of its own, and what it has told so far."""

    def __init__(self, name: str, config: dict[str, Any], folder: Path, *options: str, **environment: str) -> None:
        path = folder / f"config-{secrets.token_hex(4)}.json"
        path.write_text(json.dumps(config))
        # Ray is to find the logical GPUs of the test, and no cluster that happens to run here.
        hidden = {"CUDA_VISIBLE_DEVICES", "RAY_ADDRESS"}
        self.log = (folder / f"{path.stem}.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS), name, str(path), *options],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={key: value for key, value in os.environ.items() if key not in hidden} | environment,
            start_new_session=True,
        )
        self.told: list[dict[str, Any]] = []
        self._known: list[psutil.Process] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.told.append(json.loads(line))
            yield self.told[-1]

    def wait_for(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Read until something was told so many times."""
        for item in self:
            count -= item["kind"] == kind
            if not count:
                return item
        raise AssertionError(f"the program ended before: {kind}\n{self.told}\n{self.errors()}")

    def finish(self) -> int:
        """Read to the end; gives the exit code."""
        for _ in self:
            pass
        return self.process.wait()

    def errors(self) -> str:
        self.log.seek(0)
        return self.log.read()[-5000:]

    def family(self) -> list[psutil.Process]:
        """The processes of its Ray cluster."""
        self._known = psutil.Process(self.process.pid).children(recursive=True)
        return self._known

    def close(self) -> None:
        if self.process.poll() is None:
            self.family()
        self.process.kill()
        for process in self._known:
            with suppress(psutil.Error):
                process.kill()
        self.process.communicate()
        self.log.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def begin(name: str, config: dict[str, Any], *options: str, **environment: str) -> Program:
        programs.append(Program(name, config, tmp_path, *options, **environment))
        return programs[-1]

    yield begin
    for program in programs:
        program.close()


@pytest.fixture
def config(tmp_path: Path, checkpoint: Path) -> dict[str, Any]:
    """1800 rows in 30 shards that last a third of a second each: workers of a lost node live on for a second."""
    source = write_source(tmp_path / "in", random_texts(1800), group_rows=60)
    return slow_config(tmp_path, source, checkpoint)


def slow_config(tmp_path: Path, source: Path, checkpoint: Path, **engine: Any) -> dict[str, Any]:
    pipeline = tmp_path / "pipeline.py"
    pipeline.write_text(SLOW)
    config = config_of(
        source, tmp_path / "out", checkpoint, **{"type": "ray", "shard_rows": 60, "sort_buffer_rows": 10, **engine}
    )
    del config["annotate"]
    return config | {"pipeline": str(pipeline), "models": {"topic": str(checkpoint)}}


def left_of(family: list[psutil.Process]) -> list[psutil.Process]:
    """What is left of a cluster after some seconds. Two agents of Ray, which do nothing, take a minute to notice."""
    deadline = time.monotonic() + 30
    while (family := [process for process in family if _is_left(process)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return family


def _is_left(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE and "Agent" not in process.name()
    return False


def digests(sink: Path) -> dict[str, str]:
    files = sorted((sink / "data").rglob("*.parquet"))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_actors_share_a_gpu_only_when_the_config_says_so(start, tmp_path, checkpoint):
    source = write_source(tmp_path / "in", random_texts(200), group_rows=20)
    config = config_of(source, tmp_path / "out", checkpoint, type="ray", shard_rows=20)
    program = start("gpus", config)
    assert program.finish() == 0, program.errors()
    runs: dict[str, list[str]] = {}
    for item in program.told:
        if item["kind"] == "run":
            started = runs.setdefault(item["name"], [])
        elif item["kind"] == "started":
            started.append(item["gpu"])
    assert sorted(runs["whole"]) == ["0", "1"]  # three were asked for, and two fit
    assert len(runs["shared"]) == 3
    assert max(runs["shared"].count(gpu) for gpu in runs["shared"]) == 2
    for name in runs:
        assert_exact(tmp_path / f"out-{name}", source)


def test_a_cluster_is_joined_used_on_every_node_and_left_running_though_a_node_goes_down(start, config, tmp_path):
    program = start("two-nodes", config)
    assert program.finish() == 0, program.errors()
    told = [item for item in program.told if item["kind"] in {"nodes", "left"}]
    assert told[0] == {"kind": "nodes", "alive": 2, "actors": 2}
    assert told[1] == {"kind": "left", "connected": False}
    assert told[2]["alive"] >= 1  # Ray takes its time to notice the loss
    assert told[2]["actors"] == 0  # none of ours is left behind
    assert [item["kind"] for item in program.told].count("died") == 1
    assert_exact(tmp_path / "out", tmp_path / "in")


def test_a_worker_that_ray_kills_for_its_memory_is_a_dead_worker_like_any_other(start, config):
    config["engine"]["max_worker_deaths"] = 0
    low = {"RAY_memory_usage_threshold": "0.0001", "RAY_memory_monitor_refresh_ms": "100"}
    driver = start("drive", config, **low)
    assert driver.finish() == 7, driver.errors()
    assert driver.told[-1]["error"] == "ResourceError"
    assert "low on memory" in driver.told[-1]["message"]


def test_drivers_and_workers_may_be_killed_in_any_way_and_the_next_run_completes(start, tmp_path, checkpoint):
    source = write_source(tmp_path / "in", random_texts(3000), files=3, group_rows=100)
    config = slow_config(tmp_path, source, checkpoint, shard_rows=100, sort_buffer_rows=20)
    committed = 0

    # SIGTERM: a program that handles it keeps its handler, and stops at a resumable point.
    driver = start("drive", config)
    driver.wait_for("committed", 2)
    family = driver.family()
    driver.process.terminate()
    assert driver.finish() == 5, driver.errors()
    assert driver.told[-1]["error"] == "InterruptedRunError"
    assert left_of(family) == []
    committed += count(driver, "committed")

    # kill -9 of a worker; then of another and the driver at once, while the rest of the cluster is frozen: zombies.
    driver = start("drive", config)
    os.kill(driver.wait_for("committed", 2)["pid"], signal.SIGKILL)
    driver.wait_for("died")
    pid = driver.wait_for("committed", 3)["pid"]
    family = driver.family()
    for process in family:
        process.suspend()
    os.kill(pid, signal.SIGKILL)
    driver.process.kill()
    assert driver.finish() == -signal.SIGKILL
    committed += count(driver, "committed")

    config["engine"]["type"] = "local"
    report = distilbatch.run(config)
    # A shard whose commit was not told any more counts as this run's or as the last one's.
    assert report.rows_this_attempt <= 3000 - 100 * committed
    assert_exact(tmp_path / "out", source)
    published = digests(tmp_path / "out")
    # They wake up when all is done, and end, for their driver is gone.
    for process in family:
        with suppress(psutil.Error):
            process.resume()
    assert left_of(family) == []
    assert digests(tmp_path / "out") == published
    assert distilbatch.run(config).rows_this_attempt == 0
    assert_exact(tmp_path / "out", source)


def count(program: Program, kind: str) -> int:
    return sum(item["kind"] == kind for item in program.told)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_soak_fifty_kills_at_random_moments_of_runs_on_real_data(start, tmp_path, shared_data, checkpoint):
    seed = int(os.environ.get("DISTILBATCH_TEST_SEED") or secrets.randbits(32))
    sys.stdout.write(f"DISTILBATCH_TEST_SEED={seed}\n")
    rng = random.Random(seed)
    source = shared_data / "packages"
    config = config_of(source, tmp_path / "out", checkpoint, type="ray", shard_rows=500, sort_buffer_rows=250)
    config["sink"] |= {"passthrough": ["id", "registry"], "partition_by": ["registry"]}
    kills = runs = 0
    while kills < 50:
        config["sink"]["path"] = str(tmp_path / f"out-{runs}")
        while True:
            driver = start("drive", config, "20000")
            victim = rng.choice(["driver", "worker", "both"])
            kills += kill_at_random(driver, victim, rng)
            if driver.finish() == 0:
                break
            assert driver.process.returncode == -signal.SIGKILL, driver.errors()
        runs += 1
        verify_packages(Path(config["sink"]["path"]), source, rows=20_000)
    sys.stdout.write(f"{kills} kills in {runs} runs\n")


def kill_at_random(driver: Program, victim: str, rng: random.Random) -> bool:
    """Kill a driver, one of its workers, or both, some time after it began; False when it was over before."""
    if rng.random() < 0.2:  # while the cluster or the workers start
        time.sleep(rng.uniform(0, 8))
        driver.process.kill()
        return True
    workers: list[int] = []
    left = rng.randint(1, 30)
    for item in driver:
        workers += [item["pid"]] if item["kind"] == "started" else []
        left -= item["kind"] == "committed"
        if left <= 0:
            time.sleep(rng.uniform(0, 0.3))
            if victim != "driver":
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(workers), signal.SIGKILL)
            if victim != "worker":
                driver.process.kill()
            return True
    return False


def verify_packages(sink: Path, source: Path, *, rows: int) -> None:
    """Every planned row is published once, with the id that it has in the source."""
    assert distilbatch.verify(sink).ok
    published = query(
        "SELECT count(*), count(DISTINCT (_row.source_file, _row.source_row)) FROM read_parquet(?)",
        sink / "data" / "**" / "*.parquet",
    )
    assert published == [(rows, rows)]
    matching = query(
        "SELECT count(*) FROM read_parquet(?) AS out JOIN read_parquet(?, filename=true, file_row_number=true) AS src"
        " ON ends_with(src.filename, '/' || out._row.source_file) AND src.file_row_number = out._row.source_row"
        " AND src.id = out.id",
        sink / "data" / "**" / "*.parquet",
        source / "**" / "*.parquet",
    )
    assert matching == [(rows,)]
