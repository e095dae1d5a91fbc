from __future__ import annotations

import itertools
import re
import threading
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from engine_samples import assert_exact, config_of, labelled, list_texts, random_texts, worker_spec, write_source

import distilbatch
from distilbatch.commit.store import LocalStore
from distilbatch.engine.driver import Progress, resolve_run
from distilbatch.engine.heads import Heads
from distilbatch.engine.job import worker_spec as resolved_spec
from distilbatch.engine.local import LocalExecutor
from distilbatch.engine.planning import obtain_plan
from distilbatch.engine.spec import ShardFailure, ShardTask
from distilbatch.errors import CheckpointError, DataError, InterruptedRunError, ResourceError
from distilbatch.model.modeling import DistilBertModel
from distilbatch.records import Shard, ShardResult


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "in", random_texts(200), group_rows=20)


def tasks(listing, size: int = 20) -> list[ShardTask]:
    fragment = listing.fragments[0]
    starts = range(0, fragment.num_rows, size)
    return [
        ShardTask(Shard(index, f"{index:064d}", 0, start, start + size), fragment) for index, start in enumerate(starts)
    ]


@pytest.fixture
def executor(source, tmp_path, checkpoint):
    listing = list_texts(source)
    spec = worker_spec(listing, source=source, sink=tmp_path / "out", model=checkpoint)
    return LocalExecutor(spec), tasks(listing)


def shard_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("shard", "stage"))]


def test_every_shard_gets_a_result(executor):
    local, todo = executor
    outcomes = list(local.run(todo, stop=threading.Event()))
    assert sorted(outcome.index for outcome in outcomes) == list(range(10))
    assert all(isinstance(outcome, ShardResult) and outcome.num_rows == 20 for outcome in outcomes)
    assert shard_threads() == []


def test_a_row_group_of_many_shards_is_decoded_once_or_twice(tmp_path, checkpoint, monkeypatch):
    source = write_source(tmp_path / "in", random_texts(800, most_words=3), group_rows=800)
    decoded, iter_batches = [], pq.ParquetFile.iter_batches

    def counted(parquet, *args, **kwargs):
        for batch in iter_batches(parquet, *args, **kwargs):
            decoded.append(batch.num_rows)
            yield batch

    listing = list_texts(source)
    spec = worker_spec(listing, source=source, sink=tmp_path / "out", model=checkpoint)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    outcomes = list(LocalExecutor(spec).run(tasks(listing), stop=threading.Event()))
    assert sorted(outcome.num_rows for outcome in outcomes) == [20] * 40
    assert sum(decoded) <= 2 * 800 + 64  # two shards are under way; 40 that start anew decode 18 000 rows


def test_a_shard_that_fails_does_not_hold_up_the_others(source, tmp_path, checkpoint):
    path = source / "part-0.parquet"
    chunk = pq.read_metadata(path).row_group(3).column(1)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * chunk.total_compressed_size)
    listing = list_texts(source)
    local = LocalExecutor(worker_spec(listing, source=source, sink=tmp_path / "out", model=checkpoint))
    outcomes = {outcome.index: outcome for outcome in local.run(tasks(listing), stop=threading.Event())}
    failed = [index for index, outcome in outcomes.items() if isinstance(outcome, ShardFailure)]
    assert failed == [3]
    assert isinstance(outcomes[3].error, DataError)
    assert len(outcomes) == 10


def test_a_bug_is_a_failure_of_its_shard(executor, monkeypatch):
    local, todo = executor

    def broken(*args, **kwargs):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("distilbatch.engine.heads.Heads.decode", broken)
    outcomes = list(local.run(todo, stop=threading.Event()))
    assert len(outcomes) == 10
    for outcome in outcomes:
        assert isinstance(outcome, ShardFailure)
        assert str(outcome.error) == "a worker failed: ZeroDivisionError: a bug; this is a bug; report it"
    assert shard_threads() == []


def test_a_device_that_fails_ends_the_run_at_once(source, tmp_path, checkpoint, monkeypatch):
    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be")

    monkeypatch.setattr("distilbatch.engine.heads.Heads.predict", fail)
    with pytest.raises(ResourceError, match=r"device cpu failed, .*; found RuntimeError: CUDA error: an illegal .*Xid"):
        distilbatch.run(config_of(source, tmp_path / "out", checkpoint, shard_rows=20))
    assert len(calls) <= 4  # of ten shards: two under way, and two that began before the first was seen to fail
    assert shard_threads() == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", "the models do not fit into"),
        ("CUDA error: uncorrectable ECC error encountered", "device cpu failed"),
    ],
)
def test_a_device_that_cannot_take_the_models_is_no_bug(source, tmp_path, checkpoint, monkeypatch, error, expected):
    def fail(*args, **kwargs):
        raise RuntimeError(error)

    monkeypatch.setattr("distilbatch.engine.heads.Predictor", fail)
    with pytest.raises(ResourceError, match=expected) as caught:
        distilbatch.run(config_of(source, tmp_path / "out", checkpoint))
    assert caught.value.exit_code == 7


def test_work_that_hangs_ends_the_run_with_its_stacks_and_a_resume_goes_on(
    source, tmp_path, checkpoint, monkeypatch, caplog
):
    release, tokenize = threading.Event(), Heads.tokenize

    def waits_in_vain(heads, columns):
        if columns["text"][0].as_py() == texts[100]:
            release.wait()
        return tokenize(heads, columns)

    texts = pq.read_table(source / "part-0.parquet").column("text").to_pylist()
    monkeypatch.setattr(Heads, "tokenize", waits_in_vain)
    config = config_of(source, tmp_path / "out", checkpoint, shard_rows=20, hang_timeout_s=0.5)
    try:
        with pytest.raises(
            ResourceError,
            match=r"shard 5 hangs; expected progress within 0\.5 s \(engine\.hang_timeout_s\); found none for \d s in "
            r"the stage tokenize of rows 100 to 119 of part-0\.parquet; .* -s engine\.type=ray, which makes error rows",
        ) as caught:
            distilbatch.run(config)
    finally:
        release.set()
    assert caught.value.exit_code == 7
    assert re.search(r"one of which hangs:\n(.*\n)+.* in waits_in_vain\n", caplog.text)
    assert not (tmp_path / "out" / "data").exists()
    for thread in threading.enumerate():
        if thread.name.startswith("shard"):
            thread.join()  # which nobody has waited for
    assert 0 < distilbatch.run(config).rows_this_attempt < 200
    assert_exact(tmp_path / "out", source)


def test_a_shard_that_goes_on_slowly_or_waits_for_its_turn_does_not_hang(source, tmp_path, checkpoint, monkeypatch):
    forward = DistilBertModel.forward_packed

    def slow(*arguments, **options):
        time.sleep(0.05)
        return forward(*arguments, **options)

    monkeypatch.setattr(DistilBertModel, "forward_packed", slow)
    config = config_of(
        source, tmp_path / "out", checkpoint, shard_rows=100, sort_buffer_rows=100, max_batch_tokens=64,
        precision="float32", hang_timeout_s=1,
    )  # fmt: skip
    report = distilbatch.run(config)
    assert report.stage_seconds["forward"] > 2 * 1.2  # so that each of two shards waits longer than the limit
    assert report.rows_this_attempt == 200


@pytest.mark.parametrize("limit", [0, None])
def test_nobody_watches_where_that_is_turned_off(source, tmp_path, checkpoint, limit):
    job = resolve_run(config_of(source, tmp_path / "out", checkpoint, hang_timeout_s=limit))
    assert resolved_spec(job, obtain_plan(job, LocalStore())).hang_timeout_s is None


def test_after_stop_nothing_new_starts(executor):
    local, todo = executor
    stop = threading.Event()
    outcomes = local.run(todo, stop=stop)
    first = next(outcomes)
    stop.set()
    rest = list(outcomes)
    assert isinstance(first, ShardResult)
    assert len(rest) <= 3
    assert all(isinstance(o, ShardResult) or isinstance(o.error, InterruptedRunError) for o in rest)
    assert shard_threads() == []


def test_a_driver_that_stops_listening_leaves_no_thread(executor):
    local, todo = executor
    stop = threading.Event()
    outcomes = local.run(todo, stop=stop)
    next(outcomes)
    outcomes.close()
    assert stop.is_set()
    assert shard_threads() == []


@pytest.fixture
def stuck(source, tmp_path, checkpoint, monkeypatch):
    """An executor that never comes to the end of its second shard, and the event that tells when it is at it."""
    listing, free, reached = list_texts(source), threading.Event(), threading.Event()
    decode, started = Heads.decode, itertools.count()

    def blocked(*args, **kwargs):
        if next(started):
            reached.set()
            free.wait(60)
        return decode(*args, **kwargs)

    monkeypatch.setattr(Heads, "decode", blocked)
    spec = worker_spec(listing, source=source, sink=tmp_path / "out", model=checkpoint)
    yield LocalExecutor(spec, shutdown_grace_s=0.5), tasks(listing), reached
    free.set()
    for thread in threading.enumerate():
        if thread.name.startswith(("shard", "stage")):
            thread.join()


def until_stuck(executor, stop):
    """The outcomes that are left, when one shard is done and the next one will never be."""
    local, todo, reached = executor
    outcomes = local.run(todo, stop=stop)
    assert isinstance(next(outcomes), ShardResult)
    assert reached.wait(60)
    return outcomes


def test_a_shard_that_never_ends_is_left_behind_after_the_grace_time(stuck):
    stop = threading.Event()
    outcomes = until_stuck(stuck, stop)
    stop.set()
    assert all(isinstance(outcome.error, InterruptedRunError) for outcome in outcomes)
    left = [thread for thread in threading.enumerate() if thread.name in shard_threads()]
    assert left
    assert all(thread.daemon for thread in left)  # so that they do not keep the process from ending


def test_a_driver_that_stops_listening_does_not_wait_longer_than_that_either(stuck):
    stop = threading.Event()
    until_stuck(stuck, stop).close()
    assert stop.is_set()
    assert shard_threads() != []


def test_a_hook_that_ends_the_program_only_fails_its_shard(executor, monkeypatch):
    local, todo = executor

    def leave(*args, **kwargs):
        raise SystemExit(3)

    monkeypatch.setattr("distilbatch.engine.heads.Heads.decode", leave)
    outcomes = list(local.run(todo[:2], stop=threading.Event()))
    assert [str(outcome.error) for outcome in outcomes] == [
        "a worker failed: SystemExit: 3; this is a bug; report it"
    ] * 2


def test_no_shards_need_no_work(executor):
    local, _ = executor
    assert list(local.run([], stop=threading.Event())) == []


def test_a_run_can_be_stopped_and_resumed(source, tmp_path, checkpoint):
    sink, stop = tmp_path / "out", threading.Event()

    class StopAfterTwo(Progress):
        committed = 0

        def shard_committed(self, result):
            self.committed += 1
            if self.committed == 2:
                stop.set()

    config = config_of(source, sink, checkpoint, shard_rows=20)
    progress = StopAfterTwo()
    with pytest.raises(InterruptedRunError, match=r"was stopped; found \d of 10 shards left; run the same command"):
        distilbatch.run(config, stop=stop, progress=progress)
    assert not (sink / "data").exists()
    report = distilbatch.run(config)
    assert report.rows_this_attempt == 200 - 20 * progress.committed
    assert_exact(sink, source)


@pytest.mark.parametrize("on_bad_file", ["fail", "quarantine"])
def test_nights_without_a_document_are_rows_or_nothing_beside_the_others(tmp_path, checkpoint, on_bad_file):
    source, sink = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    nights = [
        pd.DataFrame({"id": [0, 1], "text": ["bada", None], "note": ["kego", "limo"]}),
        pd.DataFrame({"id": [2, 3], "text": [None, None], "note": ["kego", None]}),
        pd.DataFrame({"id": [4], "text": ["nupi"], "note": [None]}),
        pd.DataFrame([], columns=["id", "text", "note"]),
        pd.DataFrame([]),
    ]
    for number, night in enumerate(nights):
        night.to_parquet(source / f"{number}.parquet")
    assert [str(pq.read_schema(source / f"{number}.parquet").field("text").type) for number in (1, 3)] == ["null"] * 2
    config = config_of(source, sink, checkpoint)
    config["source"]["on_bad_file"] = on_bad_file
    config["annotate"][0]["text_pair"] = "note"
    report = distilbatch.run(config)
    assert (report.num_rows, report.statuses, report.bad_files) == (5, {"ok": 1, "null": 3, "error": 1}, ())
    assert [row[:2] for row in labelled(sink)] == list(enumerate(["ok", "null", "null", "null", "error"]))


def test_weights_that_cannot_be_loaded_end_the_run_with_their_own_error(source, tmp_path, checkpoint):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "vocab.txt"):
        (model / name).write_bytes((checkpoint / name).read_bytes())
    (model / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        distilbatch.run(config_of(source, tmp_path / "out", model))
