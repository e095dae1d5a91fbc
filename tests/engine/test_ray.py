"""The Ray engine on one local cluster; what needs another cluster, or a driver to kill, is in test_ray_clusters.py."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
from engine_samples import assert_exact, config_of, labelled, random_texts, write_source

import distilbatch
from distilbatch.config import Engine
from distilbatch.engine.actors.cluster import connected
from distilbatch.engine.actors.shard_actor import start_actor
from distilbatch.engine.actors.slots import Slots, plan_slots
from distilbatch.engine.crashes import CRASH_MESSAGE, hang_message
from distilbatch.engine.driver import Progress
from distilbatch.engine.spec import PoolEvent
from distilbatch.engine.summary import RunReport
from distilbatch.errors import CheckpointError, DistilbatchError, InterruptedRunError, ResourceError, SetupError
from distilbatch.model.modeling import DistilBertModel

pytestmark = pytest.mark.ray

FORWARD = DistilBertModel.forward_packed


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with connected(Engine(type="ray")):
        yield


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "in", random_texts(600), group_rows=60)


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A pipeline file: workers run it when they start, so that it is also a way into them."""
    # The driver runs it as well; what it does to the model here is undone after the test.
    monkeypatch.setattr(DistilBertModel, "forward_packed", FORWARD)

    def write(body: str) -> str:
        path = tmp_path / "pipeline.py"
        path.write_text(
            "import os, time, faulthandler\n"
            "from distilbatch import Pipeline, TextClassification\n"
            "from distilbatch.model.modeling import DistilBertModel as Model\n"
            "before = None\n"
            + body
            + '\nPIPELINE = Pipeline(annotate=[TextClassification(name="topic")], before=before)\n'
        )
        return str(path)

    return write


@pytest.fixture
def slow(pipeline) -> str:
    """Makes a shard of 60 rows last a tenth of a second, so that there is something to interrupt."""
    return pipeline("def before(batch):\n    time.sleep(0.1)\n    return batch")


class Watch(Progress):
    """Notes what happens, and calls ``act`` after so many commits."""

    def __init__(self, act: Callable[[Watch], None] | None = None, *, commits: int = -1) -> None:
        self.act = act
        self.at = commits
        self.commits = 0
        self.pids: list[int] = []
        self.events: list[PoolEvent] = []

    def shard_committed(self, result):
        self.commits += 1
        if self.act and self.commits == self.at:
            self.act(self)

    def event(self, event):
        self.events.append(event)
        if event.kind == "started":
            self.pids.append(int(re.search(r"worker (\d+)", event.message)[1]))

    def count(self, kind: str) -> int:
        return sum(event.kind == kind for event in self.events)


def kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # killed before
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def run(source, tmp_path, checkpoint) -> Callable[..., RunReport]:
    def start(
        progress: Progress | None = None,
        *,
        stop: threading.Event | None = None,
        pipeline: str | None = None,
        **engine: object,
    ) -> RunReport:
        config = config_of(
            source, tmp_path / "out", checkpoint, **{"type": "ray", "shard_rows": 60, "actors": 1, **engine}
        )
        if pipeline:
            del config["annotate"]
            config |= {"pipeline": pipeline, "models": {"topic": str(checkpoint)}}
        return distilbatch.run(config, progress=progress, stop=stop)

    return start


# --- Workers die -----------------------------------------------------------------------------------------------------


def test_whichever_workers_are_killed_every_row_is_labelled_once_as_the_local_engine_does(
    run, source, tmp_path, checkpoint, slow, capsys
):
    class KillThrice(Watch):
        def event(self, event):
            super().event(event)
            if len(self.pids) == 1:
                kill(self.pids[0])  # before its first shard, or as it begins

        def shard_committed(self, result):
            super().shard_committed(result)
            if self.commits == 3:
                kill(self.pids[-1])
            elif self.commits == 6:
                kill(*self.pids[-2:])

    watch = KillThrice()
    report = run(watch, pipeline=slow, actors=2)
    assert (report.num_rows, watch.commits) == (600, 10)
    assert 3 <= watch.count("died") <= 4
    assert all("a worker died (" in event.message for event in watch.events if event.kind == "died")
    assert os.getpid() not in watch.pids
    assert capsys.readouterr().out == ""  # where Ray would tell about the dead, in the midst of the program's output
    assert_exact(tmp_path / "out", source)

    local = tmp_path / "local"
    distilbatch.run(config_of(source, local, checkpoint, shard_rows=60))
    found, expected = labelled(tmp_path / "out"), labelled(local)
    assert [row[:4] for row in found] == [row[:4] for row in expected]
    assert [row[4] for row in found] == pytest.approx([row[4] for row in expected], abs=1e-5)


def test_a_run_that_spent_its_deaths_or_was_stopped_is_resumed_where_it_ended(run, source, tmp_path, slow):
    spent = Watch(lambda watch: kill(watch.pids[0]), commits=3)
    with pytest.raises(ResourceError, match="workers keep dying; expected at most 0 deaths") as caught:
        run(spent, pipeline=slow, max_worker_deaths=0)
    assert caught.value.exit_code == 7

    stop = threading.Event()
    stopped = Watch(lambda watch: stop.set(), commits=1)
    with pytest.raises(InterruptedRunError, match=r"was stopped; found \d of 10 shards left"):
        run(stopped, stop=stop, pipeline=slow, shutdown_grace_s=0)
    assert stopped.commits == 1  # nobody waits for what is under way
    assert not (tmp_path / "out" / "data").exists()

    report = run(pipeline=slow)
    assert report.rows_this_attempt == 600 - 60 * (spent.commits + stopped.commits)
    assert_exact(tmp_path / "out", source)


# --- Rows that kill --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guilty", [[333], pytest.param([5, 333, 334], marks=pytest.mark.soak)], ids=str)
def test_a_row_that_kills_its_worker_becomes_an_error_row_and_is_never_met_again(
    run, source, tmp_path, pipeline, guilty
):
    texts = random_texts(600)
    for row in guilty:
        texts[row] = "bada deadly"
    write_source(source, texts, group_rows=60)
    deadly = pipeline(
        "def before(batch):\n"
        '    if any(text and "deadly" in text for text in batch.column("text").to_pylist()):\n'
        "        faulthandler._sigsegv()\n"
        "    return batch"
    )
    stop = threading.Event()

    class StopWhenFound(Watch):
        found: tuple[int, ...] = ()

        def event(self, event):
            super().event(event)
            self.found += event.rows
            if len(self.found) == len(guilty):
                stop.set()

    first = StopWhenFound()
    with pytest.raises(InterruptedRunError):
        run(first, stop=stop, pipeline=deadly)
    assert sorted(first.found) == guilty
    assert first.count("died") <= 2 * len(guilty)  # the search has two deaths of its own for each

    second = Watch()
    report = run(second, pipeline=deadly)
    assert second.count("died") == 0
    assert report.statuses["error"] == len(guilty)
    rows = labelled(tmp_path / "out")
    assert [(row[0], row[2]) for row in rows if row[1] == "error"] == [(row, CRASH_MESSAGE) for row in guilty]
    assert all(row[3] is not None for row in rows if row[1] != "error")
    assert_exact(tmp_path / "out", source)


def test_a_row_that_spoils_the_device_of_its_worker_is_one_that_kills_it(run, source, tmp_path, pipeline):
    texts = ["bada kego" for _ in range(600)]
    texts[333] = "zuzu " * 9
    write_source(source, texts, group_rows=60)
    # As CUDA does after an illegal access: that call fails, and so does every later one of the process.
    spoiled = pipeline(
        "spoiled, forward = [], Model.forward_packed\n"
        "def fail(self, packed, *arguments, **options):\n"
        f"    if os.getpid() != {os.getpid()} and (spoiled or max(packed.layout.lengths) > 9):\n"
        "        spoiled.append(True)\n"
        '        raise RuntimeError("CUDA error: an illegal memory access was encountered")\n'
        "    return forward(self, packed, *arguments, **options)\n"
        "Model.forward_packed = fail"
    )
    watch = Watch()
    report = run(watch, pipeline=spoiled)
    assert report.statuses == {"ok": 599, "error": 1}
    assert watch.count("died") == 2
    assert [event.rows for event in watch.events if event.kind == "crashing_rows"] == [(333,)]
    assert [row[:3] for row in labelled(tmp_path / "out") if row[1] != "ok"] == [(333, "error", CRASH_MESSAGE)]
    assert_exact(tmp_path / "out", source)


def test_a_row_that_hangs_its_worker_becomes_an_error_row_and_the_log_says_where(
    run, source, tmp_path, pipeline, caplog
):
    texts = ["bada kego" for _ in range(600)]
    texts[333] = "bada endless"
    write_source(source, texts, group_rows=60)
    # A call that keeps the interpreter to itself: no other thread of the worker, Ray's included, runs any more.
    endless = pipeline(
        "import re\n"
        "def before(batch):\n"
        '    if any(text and "endless" in text for text in batch.column("text").to_pylist()):\n'
        '        re.match("(a+)+$", "a" * 64 + "b")\n'
        "    return batch"
    )
    watch = Watch()
    report = run(watch, pipeline=endless, hang_timeout_s=3)
    assert report.statuses == {"ok": 599, "error": 1}
    assert [row[:3] for row in labelled(tmp_path / "out") if row[1] != "ok"] == [(333, "error", hang_message(3))]
    assert watch.count("died") == 2
    assert all("no progress for 3 s (engine.hang_timeout_s)" in e.message for e in watch.events if e.kind == "died")
    assert [event.rows for event in watch.events if event.kind == "crashing_rows"] == [(333,)]
    stacks = [record.getMessage() for record in caplog.records if "the stacks of a worker" in record.getMessage()]
    assert len(stacks) == 4  # two of the pool and two of the search
    assert all(re.search(r'File ".*pipeline.py", line \d+ in before', text) for text in stacks)
    assert_exact(tmp_path / "out", source)
    # It is never met again, and its record says why it is an error.
    (evidence,) = (tmp_path / "out" / "_distilbatch").rglob("deaths/*/*.json")
    assert hang_message(3) in evidence.read_text()


def test_a_slow_worker_does_not_hang(run, source, pipeline):
    write_source(source, ["bada kego"] * 60, group_rows=60)
    slow = pipeline("def before(batch):\n    time.sleep(0.7)\n    return batch")
    watch = Watch()
    report = run(watch, pipeline=slow, hang_timeout_s=2.5, sort_buffer_rows=10)
    assert report.seconds > 4.2  # of its one shard
    assert (report.statuses, watch.count("died")) == ({"ok": 60}, 0)


def test_a_model_that_kills_whatever_it_computes_ends_the_run_soon_and_accuses_no_row(run, tmp_path, pipeline):
    deadly = pipeline("Model.forward_packed = lambda *arguments, **options: os.abort()")
    watch = Watch()
    with pytest.raises(ResourceError, match="workers die before they have computed any row of the source"):
        run(watch, pipeline=deadly)
    assert (watch.count("crashing_rows"), watch.commits) == (0, 0)
    assert watch.count("died") <= 4
    assert list((tmp_path / "out" / "_distilbatch").rglob("deaths")) == []


def test_workers_that_die_as_they_start_end_the_run_soon(run, pipeline, tmp_path):
    # The driver reads the pipeline too, and must survive it.
    deadly = pipeline(f"if os.getpid() != {os.getpid()}: os._exit(3)")
    watch = Watch()
    with pytest.raises(ResourceError, match="workers die while they load the model; found 4 deaths"):
        run(watch, pipeline=deadly)
    assert watch.pids == []


# --- Workers fail ----------------------------------------------------------------------------------------------------


def test_weights_that_cannot_be_loaded_end_the_run_with_their_own_error(source, tmp_path, checkpoint):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "vocab.txt"):
        (model / name).write_bytes((checkpoint / name).read_bytes())
    (model / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:2000])
    watch = Watch()
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught:
        distilbatch.run(config_of(source, tmp_path / "out", model, type="ray", actors=1), progress=watch)
    assert type(caught.value) is CheckpointError
    assert watch.count("died") == 0


def test_a_bug_in_every_shard_ends_the_run_with_its_text(run, pipeline):
    broken = pipeline("def broken(*arguments, **options):\n    return 1 / 0\nModel.forward_packed = broken")
    watch = Watch()
    with pytest.raises(DistilbatchError, match="ZeroDivisionError: division by zero") as caught:
        run(watch, pipeline=broken)
    assert caught.value.exit_code == 1
    assert (watch.count("died"), watch.commits) == (0, 0)


def test_a_worker_that_cannot_compute_what_the_run_chose_says_what_it_computes_in(run, source, tmp_path, monkeypatch):
    monkeypatch.setattr("distilbatch.engine.driver.settle_precision", lambda *_, **__: "float16")  # as on a card
    watch = Watch()
    assert run(watch).num_rows == 600
    assert [event.message.partition(", ")[2] for event in watch.events] == ["in float32 for want of float16"]
    assert_exact(tmp_path / "out", source)


# --- The cluster -----------------------------------------------------------------------------------------------------


def test_the_local_cluster_cannot_be_reached_from_outside():
    addresses = set()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            connections = process.net_connections(kind="inet")
        except psutil.Error:  # it ended meanwhile
            continue
        addresses |= {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN or c.type == socket.SOCK_DGRAM}
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_a_connection_that_was_there_before_is_left_alone():
    with connected(Engine(type="ray", address="nowhere:1")):
        assert ray.is_initialized()
    assert ray.is_initialized()


def test_an_environment_that_lets_parquet_run_code_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA", "1")
    with pytest.raises(SetupError, match=r"RAY_DATA_AUTOLOAD.* is set; .*unset it"), connected(Engine(type="ray")):
        pass


@pytest.mark.parametrize(
    ("engine", "num_shards", "slots"),
    [
        ({"cpus_per_actor": 1, "actors": 1}, 9, Slots(actors=1, cpus=1.0, gpus=0.0, threads=1)),
        ({"cpus_per_actor": 0.5, "actors": 2}, 9, Slots(actors=2, cpus=0.5, gpus=0.0, threads=1)),
        ({"cpus_per_actor": 2, "actors": 1, "threads": 7}, 9, Slots(actors=1, cpus=2.0, gpus=0.0, threads=7)),
        ({"cpus_per_actor": 0.01}, 3, Slots(actors=3, cpus=0.01, gpus=0.0, threads=1)),
        ({"cpus_per_actor": 0.01}, 0, Slots(actors=1, cpus=0.01, gpus=0.0, threads=1)),
    ],
)
def test_actors_fill_the_cluster_as_the_config_says(engine, num_shards, slots):
    engine = Engine(type="ray", device="cpu", **engine)
    assert plan_slots(engine, num_shards=num_shards, text_bytes=1 << 40) == slots


@pytest.mark.parametrize(("num_shards", "share"), [(1, 1), (2, 2)])
def test_fewer_shards_than_actors_leave_no_core_idle(num_shards, share):
    cpus = min(int(ray.cluster_resources()["CPU"]), 16)
    found = plan_slots(Engine(type="ray", device="cpu"), num_shards=num_shards, text_bytes=1 << 40)
    assert (found.actors, found.threads) == (min(num_shards, cpus), max(1, cpus // share))
    found = plan_slots(Engine(type="ray", device="cpu", threads=1), num_shards=num_shards, text_bytes=1 << 40)
    assert (found.cpus, found.threads) == (max(1, cpus // share), 1)


def test_a_run_that_finds_no_room_says_so_once_and_goes_on_when_there_is_some(run, monkeypatch, caplog):
    monkeypatch.setattr("distilbatch.engine.actors.executor._WAIT_S", 1.0)

    @ray.remote(num_cpus=ray.cluster_resources()["CPU"])
    class Other:
        def here(self):
            return True

    other = Other.remote()
    assert ray.get(other.here.remote())
    released = threading.Timer(4.0, ray.kill, [other])
    released.start()
    assert run(cpus_per_actor=1).num_rows == 600
    released.join()
    told = [record.getMessage() for record in caplog.records if "has found a place" in record.getMessage()]
    assert len(told) == 1
    assert "1 of 1 CPUs and 0 GPUs each were asked for" in told[0]
    assert "0 CPUs and 0 GPUs are free" in told[0]


def test_slow_models_are_no_lack_of_room(run, pipeline, monkeypatch, caplog):
    def start_and_wait(*arguments):
        slot = start_actor(*arguments)
        ray.get(slot.placed)
        return slot

    monkeypatch.setattr("distilbatch.engine.actors.executor.start_actor", start_and_wait)
    monkeypatch.setattr("distilbatch.engine.actors.executor._WAIT_S", 0.0)
    slow = pipeline(f"if os.getpid() != {os.getpid()}: time.sleep(2)")
    assert run(pipeline=slow).num_rows == 600
    assert "has found a place" not in caplog.text


@pytest.mark.parametrize("engine", [{"cpus_per_actor": 100_000}, {"gpus_per_actor": 1}], ids=str)
def test_an_actor_that_fits_nowhere_is_refused(engine):
    with pytest.raises(SetupError, match=r"no actor fits into the cluster; expected .* found .* CPUs and 0 GPUs"):
        plan_slots(Engine(type="ray", **engine), num_shards=1, text_bytes=0)


def test_little_text_gets_few_actors_with_the_threads_of_all():
    cpus = min(int(ray.cluster_resources()["CPU"]), 16)
    while ray.available_resources().get("CPU", 0) < cpus:
        time.sleep(0.1)  # actors of the test before are still ending
    engine = Engine(type="ray", device="cpu")
    little, much = (plan_slots(engine, num_shards=1000, text_bytes=size) for size in (1000, 1 << 40))
    assert little.actors == max(1, cpus // 4)
    assert little.actors * little.threads > cpus - little.actors
    assert much.actors >= little.actors
    asked = plan_slots(Engine(type="ray", device="cpu", actors=cpus), num_shards=1000, text_bytes=1000)
    assert asked.actors == plan_slots(engine, num_shards=1000, text_bytes=1 << 40).actors
