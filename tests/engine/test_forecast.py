"""The plan tells what a run then does, tells its time from a sample, and leaves no trace."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
import tiny_job

import distilbatch
from distilbatch.engine.driver import Driver, Progress, resolve_run
from distilbatch.engine.forecast import plan
from distilbatch.errors import CheckpointError, ConflictError, DataError, InterruptedRunError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model and a source of 50 and 20 rows."""
    tiny_job.write_checkpoint(tmp_path / "model")
    tiny_job.write_source(tmp_path / "source" / "a.parquet", 50)
    tiny_job.write_source(tmp_path / "source" / "b.parquet", 20, first=50)
    return tmp_path


class StopAfterFirst(Progress):
    """Stops a run once a shard is committed."""

    def __init__(self) -> None:
        self.stop = threading.Event()

    def shard_committed(self, result) -> None:
        self.stop.set()


def interrupt(config) -> int:
    """Run a job until some of its shards are committed; returns how many."""
    progress = StopAfterFirst()
    job = resolve_run(config)
    with pytest.raises(InterruptedRunError):
        Driver(job, progress=progress, stop=progress.stop).run()
    return len(list(job.layout.shards.glob("*.json")))


@pytest.mark.parametrize("limit", [None, 25])
def test_the_plan_is_what_the_run_then_does(folder, limit):
    config = tiny_job.job_config(folder)
    planned = plan(config, limit=limit)
    ran = distilbatch.run(config, limit=limit)
    assert (planned.run_key, planned.plan_id, planned.rows) == (ran.run_key, ran.plan_id, ran.num_rows)
    assert (planned.output_files, planned.output_files_exact) == (ran.num_files, True)
    assert planned.state == "new"
    assert planned.shards == len(list((folder / "out" / "_distilbatch").glob("*/*/shards/*.json")))
    assert (planned.rows_left, planned.shards_left) == (planned.rows, planned.shards)
    assert planned.estimate is not None
    if limit is None:
        assert planned.estimate.tokens == ran.tokens  # the sample holds every row


def test_the_figures_of_the_source(folder):
    report = plan(tiny_job.job_config(folder))
    files = list((folder / "source").iterdir())
    assert (report.files, report.source_bytes) == (2, sum(file.stat().st_size for file in files))
    assert (report.rows, report.shards) == (70, 4)
    assert report.model_fingerprints.keys() == {"answer"}
    limited = plan(tiny_job.job_config(folder), limit=50)
    assert (limited.files, limited.rows, limited.shards) == (1, 50, 3)
    assert 0 < limited.text_bytes < report.text_bytes


def test_planning_writes_nothing(folder):
    before = tiny_job.tree(folder)
    assert plan(tiny_job.job_config(folder)).estimate is not None
    assert not (folder / "out").exists()
    assert tiny_job.tree(folder) == before


@pytest.mark.parametrize("day", [None, "2026-11-02"])
def test_planning_leaves_a_sink_as_it_is(folder, day):
    interrupt(tiny_job.job_config(folder))
    before = tiny_job.tree(folder)
    plan(tiny_job.job_config(folder), day=day)
    assert tiny_job.tree(folder) == before


def test_a_resume_counts_what_is_left(folder):
    config = tiny_job.job_config(folder)
    done = interrupt(config)
    report = plan(config)
    assert (report.state, report.shards, report.shards_left) == ("resume", 4, 4 - done)
    assert report.estimate is not None
    assert report.estimate.sample_rows == report.rows_left
    ran = distilbatch.run(config)
    assert (report.rows_left, report.rows) == (ran.rows_this_attempt, ran.num_rows)


def test_a_claim_without_a_plan_is_resumed(folder):
    interrupt(tiny_job.job_config(folder))
    control = folder / "out" / "_distilbatch" / "tiny" / "once"
    shutil.rmtree(control)
    tiny_job.write_source(folder / "source" / "c.parquet", 10)
    report = plan(tiny_job.job_config(folder))
    assert (report.state, report.rows, report.rows_left) == ("resume", 70, 70)


def test_nothing_is_left_of_a_published_run(folder):
    config = tiny_job.job_config(folder, sink={"partition_by": ["group"]})
    ran = distilbatch.run(config)
    shutil.rmtree(folder / "source")  # a run that is done does not need it, nor does its plan
    report = plan(config)
    assert (report.state, report.rows, report.rows_left, report.shards_left) == ("published", 70, 0, 0)
    assert (report.output_files, report.output_files_exact) == (ran.num_files, True)
    assert report.estimate is None


def test_rows_of_earlier_windows_are_left_out(folder):
    config = tiny_job.job_config(folder)
    distilbatch.run(config, day="2026-11-01")
    tiny_job.write_source(folder / "source" / "c.parquet", 30, first=70)
    report = plan(config, day="2026-11-02")
    assert (report.state, report.files, report.rows, report.rows_claimed) == ("new", 1, 30, 70)
    assert report.unfinished == ()
    nothing = plan(config, day="2026-11-01")
    assert (nothing.state, nothing.rows_claimed) == ("published", 0)


def test_an_unfinished_earlier_run_is_named(folder):
    interrupt(tiny_job.job_config(folder))
    report = plan(tiny_job.job_config(folder), day="2026-11-02")
    assert (report.rows, report.rows_claimed, report.unfinished) == (0, 70, ("tiny/once",))
    assert report.estimate is None


def test_another_model_is_refused_as_a_run_would(folder):
    interrupt(tiny_job.job_config(folder))
    shutil.rmtree(folder / "model")
    tiny_job.write_checkpoint(folder / "model", seed=2)
    with pytest.raises(ConflictError, match=r"tiny/once was planned with other settings; .*model of 'answer': planned"):
        plan(tiny_job.job_config(folder))


def test_planned_files_that_changed_are_named(folder):
    config = tiny_job.job_config(folder)
    interrupt(config)
    tiny_job.write_source(folder / "source" / "b.parquet", 21)
    report = plan(config)
    assert report.changed_files == ("b.parquet",)
    (folder / "source" / "b.parquet").unlink()
    assert plan(config).changed_files == ("b.parquet",)


def test_bad_files_are_listed(folder):
    (folder / "source" / "z.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 3 source files cannot be read"):
        plan(tiny_job.job_config(folder))
    report = plan(tiny_job.job_config(folder, source={"on_bad_file": "quarantine"}))
    assert report.bad_files == ("z.parquet: an empty file of 0 bytes",)
    assert report.rows == 70


def test_output_files_are_a_lower_bound_where_rows_decide(folder):
    report = plan(tiny_job.job_config(folder, sink={"partition_by": ["group"]}))
    assert (report.output_files, report.output_files_exact) == (4, False)


def test_output_files_are_exact_where_the_source_is_partitioned_alike(folder):
    for name in ("a", "b"):
        (folder / "source" / f"kind={name}").mkdir()
        (folder / "source" / f"{name}.parquet").rename(folder / "source" / f"kind={name}" / "x.parquet")
    sections = {"source": {"partitioning": "hive"}, "sink": {"passthrough": ["kind"], "partition_by": ["kind"]}}
    report = plan(tiny_job.job_config(folder, **sections))
    assert (report.output_files, report.output_files_exact) == (4, True)
    assert distilbatch.run(tiny_job.job_config(folder, **sections)).num_files == 4


# The sample.


def test_truncation_is_a_share_of_the_sample(folder):
    shutil.rmtree(folder / "source")
    tiny_job.write_source(folder / "source" / "short.parquet", 20)
    tiny_job.write_source(folder / "source" / "long.parquet", 20, words=40)
    report = plan(tiny_job.job_config(folder))
    assert report.estimate is not None
    assert report.estimate.truncated_share == 18 / 40  # every tenth text is null
    assert report.estimate.tokens == 18 * tiny_job.MAX_TOKENS + 18 * 5


def test_a_large_source_is_sampled_and_scaled_up(folder):
    tiny_job.write_source(folder / "source" / "c.parquet", 3000)
    report = plan(tiny_job.job_config(folder, engine={"shard_rows": 100}))
    estimate = report.estimate
    assert estimate is not None
    assert (estimate.sample_rows, estimate.sample_shards) == (512 // 8 * 8, 8)
    assert estimate.tokens == pytest.approx(distilbatch.run(tiny_job.job_config(folder)).tokens, rel=0.05)


@pytest.mark.parametrize(("seed", "forwards"), [(2, 2), (1, 1)], ids=["two encoders", "a shared encoder"])
def test_the_time_is_that_of_the_tokens_at_the_measured_speed(folder, seed, forwards):
    tiny_job.write_checkpoint(folder / "other", seed=seed)
    two = [{"name": name, "task": "text-classification", "model": str(folder / name)} for name in ("model", "other")]
    config = tiny_job.job_config(folder) | {"annotate": two}
    estimate = plan(config).estimate
    alone = plan(config | {"annotate": two[:1]}).estimate
    assert estimate is not None
    assert alone is not None
    assert estimate.tokens_per_s is not None
    assert estimate.tokens_computed == forwards * alone.tokens_computed
    assert 0 < alone.tokens_computed <= alone.tokens == estimate.tokens  # less where documents repeat
    assert estimate.seconds == pytest.approx(estimate.tokens_computed / estimate.tokens_per_s, rel=0.1)
    assert estimate.basis == (
        "a sample of 70 rows from 4 of 4 shards; models alone, measured in this process on cpu float32, for one worker"
    )


def test_the_models_need_not_run(folder):
    estimate = plan(tiny_job.job_config(folder), forecast=False).estimate
    assert estimate is not None
    assert (estimate.tokens_per_s, estimate.seconds) == (None, None)
    assert estimate.tokens > 0
    assert estimate.basis == "a sample of 70 rows from 4 of 4 shards; no time: the models were not run"


def test_a_device_that_only_the_workers_have_costs_the_time_and_nothing_else(folder):
    estimate = plan(tiny_job.job_config(folder, engine={"device": "cuda:99"})).estimate
    assert estimate is not None
    assert estimate.seconds is None
    assert "no time: device 'cuda:99' is not usable" in estimate.basis


def test_a_source_without_text_has_no_time(folder):
    shutil.rmtree(folder / "source")
    tiny_job.write_source(folder / "source" / "a.parquet", 5, words=0)
    estimate = plan(tiny_job.job_config(folder)).estimate
    assert estimate is not None
    assert (estimate.tokens, estimate.seconds) == (0, None)
    assert estimate.basis.endswith("no time: the sample has no text to run the models on")


def test_hooks_take_part_in_the_sample(folder):
    (folder / "hooks.py").write_text(
        "import pyarrow as pa\n"
        "from distilbatch import Pipeline, TextClassification\n"
        "def before(batch):\n"
        "    texts = pa.array(['red'] * batch.num_rows)\n"
        "    return batch.set_column(batch.schema.names.index('text'), 'text', texts)\n"
        f"PIPELINE = Pipeline(annotate=[TextClassification(name='answer', model={str(folder / 'model')!r})], "
        "before=before)\n"
    )
    config = tiny_job.job_config(folder)
    del config["annotate"]
    estimate = plan(config | {"pipeline": str(folder / "hooks.py")}).estimate
    assert estimate is not None
    assert estimate.tokens == 70 * 3


def test_a_damaged_checkpoint_shows_before_the_run(folder):
    weights = folder / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        plan(tiny_job.job_config(folder))


def test_the_report_is_json(folder):
    values = json.loads(json.dumps(plan(tiny_job.job_config(folder)).to_dict()))
    assert values["estimate"]["sample_rows"] == values["rows"] == 70


def test_the_public_name_is_this_function():
    assert distilbatch.plan is plan
