from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pyarrow as pa
import pytest

from distilbatch.engine.attempt import DECODE, PREDICT, PROBE, STAGES, TOKENIZE, Attempt, take_trace
from distilbatch.engine.spec import ShardTask
from distilbatch.errors import InterruptedRunError, ResourceError
from distilbatch.records import Fragment, Shard, SourceBatch

FRAGMENT = Fragment("a.parquet", 10, "0" * 64, 1000, (1000,), (1000,))
SHARD = Shard(7, "0" * 64, 0, 0, 1000)


@pytest.fixture
def trace(tmp_path):
    return tmp_path / "staging" / "00007.trace"


def attempt(trace, *, crashing=(), stop=None) -> Attempt:
    return Attempt(ShardTask(SHARD, FRAGMENT, dict.fromkeys(crashing, "it hangs")), trace=trace, stop=stop)


def rows(*values: int):
    return np.array(values, np.int64)


def test_a_dead_attempt_leaves_the_rows_of_each_stage(trace):
    dead = attempt(trace)
    dead.leave_trace(TOKENIZE, rows(100, 101, 102))
    dead.leave_trace(PREDICT, rows(42, 40, 41))
    dead.leave_trace(DECODE, rows(1, 2))
    assert take_trace(trace, TOKENIZE) == (100, 101, 102)
    assert take_trace(trace, PREDICT) == (40, 41, 42)  # token batches go by length, a search by row
    assert take_trace(trace, DECODE) == (1, 2)


def test_only_the_last_rows_of_a_stage_count(trace):
    dead = attempt(trace)
    dead.leave_trace(PREDICT, rows(1, 2, 3, 4, 5))
    dead.leave_trace(PREDICT, rows(9, 8))
    assert take_trace(trace, PREDICT) == (8, 9)


def test_a_trace_is_taken_once(trace):
    attempt(trace).leave_trace(PREDICT, rows(1))
    assert take_trace(trace, PREDICT) == (1,)
    assert take_trace(trace, PREDICT) == ()


def test_an_attempt_that_ends_by_itself_leaves_no_trace(trace):
    ended = attempt(trace)
    for stage in (*STAGES, PROBE):
        ended.leave_trace(stage, rows(1))
    ended.close()
    assert list(trace.parent.iterdir()) == []
    assert [take_trace(trace, stage) for stage in STAGES] == [(), (), ()]


def test_a_new_attempt_starts_its_trace_anew(trace):
    attempt(trace).leave_trace(PREDICT, rows(*range(500)))
    attempt(trace).leave_trace(PREDICT, rows(3))
    assert take_trace(trace, PREDICT) == (3,)


@pytest.mark.parametrize("kept_bytes", [0, 1, 7, 8, 12, 16, 23])
def test_a_trace_cut_off_by_the_death_accuses_nobody(trace, kept_bytes):
    attempt(trace).leave_trace(PREDICT, rows(5, 6, 7))
    (file,) = trace.parent.iterdir()
    file.write_bytes(file.read_bytes()[:kept_bytes])
    assert take_trace(trace, PREDICT) == ()


def test_a_stopped_attempt_gives_up_before_its_next_rows(trace):
    stop = threading.Event()
    running = attempt(trace, stop=stop)
    running.leave_trace(PREDICT, rows(1))
    stop.set()
    with pytest.raises(InterruptedRunError, match="shard 7 was given up; run the same command again"):
        running.leave_trace(PREDICT, rows(2))


def test_crashing_rows_are_found_in_the_buffer_they_are_in(trace):
    tried = attempt(trace, crashing=(99, 100, 149, 150))
    buffer = SourceBatch(pa.record_batch({"text": ["a"] * 50}), row_start=100)
    assert tried.crashing_rows(buffer) == {0: "it hangs", 49: "it hangs"}


def test_attempts_have_names_of_their_own(trace):
    assert len({attempt(trace).attempt_id for _ in range(100)}) == 100


@pytest.mark.parametrize("call", ["open", "pwrite", "mkdir"])
def test_a_full_disk_is_no_bug(trace, monkeypatch, call):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(ResourceError, match=r"cannot write .*00007\.tokenize\.rows; .* found No space left on device"):
        attempt(trace).leave_trace(TOKENIZE, rows(1))
