"""Signals: before the plan they end the program, after it the first one leaves a resumable run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest
import tiny_job

ROOT = Path(__file__).parents[2]

WAITER = """\
import sys, threading, time
from distilbatch.cli.interrupts import call_interruptibly
from distilbatch.cli.logs import configure_logging

resumable, stop = threading.Event(), threading.Event()

def work():
    if sys.argv[1] != "early":
        resumable.set()
    print("ready", flush=True)
    if sys.argv[1] == "polite":
        stop.wait(60)
        return "stopped"
    time.sleep(60)

configure_logging(debug=False)
print(call_interruptibly(work, resumable=resumable, stop=stop), flush=True)
"""


def start_waiter(kind: str) -> subprocess.Popen[str]:
    def hear_sigint() -> None:  # a shell's background job, as the tests may be one, ignores it
        signal.signal(signal.SIGINT, signal.default_int_handler)

    process = subprocess.Popen(
        [sys.executable, "-c", WAITER, kind],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=hear_sigint,  # noqa: PLW1509 - this process has one thread that matters
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_plan_ends_the_program(number, code):
    process = start_waiter("early")
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_after_the_plan_asks_the_work_to_stop(number):
    process = start_waiter("polite")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "stopped\n")
    assert f"{number.name}: stopping; the same command resumes" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_ends_the_program_at_once(number, code):
    process = start_waiter("deaf")
    process.send_signal(signal.SIGTERM)
    assert "stopping" in process.stderr.readline()
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == code


def wait_for(condition, *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def stopped_and_resumed(start, call, place, number: signal.Signals) -> str:
    """Signal a run after its first shard, run it again, and check the output; returns what the first one said."""
    shards = place.sink / "_distilbatch" / "tiny" / "once" / "shards"
    process = start("run", place.config)
    wait_for(lambda: list(shards.glob("*.json")) or process.poll() is not None)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 5, err
    assert out == ""
    assert not list(place.sink.glob("data/**/*.parquet"))
    assert "error: tiny/once was stopped" in err
    assert "remedy:   run the same command again" in err
    done = len(list(shards.glob("*.json")))
    again = call("run", place.config, "-s", "engine.type=local", "--json")
    assert again.code == 0
    report = json.loads(again.out)
    assert report["rows_this_attempt"] < report["num_rows"]
    assert f"{done} of them committed before" in again.err
    assert call("verify", place.sink).code == 0
    count = f"SELECT count(*), count(DISTINCT id) FROM read_parquet('{place.sink}/data/**/*.parquet')"
    assert duckdb.sql(count).fetchall() == [(report["num_rows"], report["num_rows"])]
    return err


def test_a_run_that_is_stopped_half_way_resumes(start, call, place):
    tiny_job.write_source(place.folder / "source" / "a.parquet", 20_000)
    place.write_config(engine={"shard_rows": 500, "sort_buffer_rows": 100, "max_batch_tokens": 64})
    err = stopped_and_resumed(start, call, place, signal.SIGTERM)
    assert "SIGTERM: stopping" in err


@pytest.mark.ray
def test_a_run_on_ray_that_is_stopped_half_way_resumes(start, call, place):
    tiny_job.write_source(place.folder / "source" / "a.parquet", 20_000)
    place.write_config(
        engine={
            "type": "ray", "actors": 1, "shard_rows": 500, "sort_buffer_rows": 20, "max_batch_tokens": 64,
            "shutdown_grace_s": 2,
        }
    )  # fmt: skip
    err = stopped_and_resumed(start, call, place, signal.SIGTERM)
    assert "started worker" in err
    assert "SIGTERM received" not in err  # Ray's own handler prints a stack trace


STUCK = """\
import time
from pathlib import Path
from distilbatch import Pipeline, TextClassification

def before(batch):
    if 20 in batch.column("id").to_pylist():
        Path("reached").touch()
        time.sleep(10**6)  # a lock, a mount that is gone
    return batch

PIPELINE = Pipeline(annotate=[TextClassification(name="answer")], before=before)
"""


def test_a_hook_that_never_returns_does_not_outlive_the_grace_time(start, place):
    (place.folder / "hook.py").write_text(STUCK)
    config = tiny_job.job_config(place.folder, engine={"shutdown_grace_s": 1})
    del config["annotate"]
    config |= {"pipeline": "hook.py", "models": {"answer": "model"}}
    place.config.write_text(json.dumps(config))
    process = start("run", place.config)
    wait_for(lambda: (place.folder / "reached").exists() or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    try:
        _, err = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 5, err
    assert "shards left" in err


def test_a_signal_while_nothing_is_planned_leaves_nothing_behind(start, place):
    process = start("run", "-", stdin=subprocess.PIPE)  # waits for a config
    time.sleep(2)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode in {143, -signal.SIGTERM}  # a shell says 143 to both; the latter before main() runs
    assert not place.sink.exists()
