"""The precision of a run: tried on its own documents, recorded once, refused when it changes too much."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_job
import torch
from rich.console import Console

from distilbatch import run
from distilbatch.cli.tables import plan_tables, run_tables
from distilbatch.engine import forecast, settle, trial, trial_process
from distilbatch.engine.capacity import Capacity, cores_here, forward_work
from distilbatch.engine.trial import Trial
from distilbatch.errors import DataError, SetupError
from distilbatch.inference.backends import operators

needs_int8 = pytest.mark.skipif(not operators.int8_sums(), reason="torch has no int8 kernels for this CPU")


@pytest.fixture
def folder(tmp_path):
    tiny_job.write_checkpoint(tmp_path / "model")
    tiny_job.write_source(tmp_path / "source" / "a.parquet", 60)
    return tmp_path


@pytest.fixture
def trials(monkeypatch):
    """Counts trials and answers them, in place of the child process; real ones are in the tests that say so."""
    answers: list[Trial | str] = []
    asked = []

    def answer(assignment, *, stop):
        asked.append(assignment)
        return answers.pop(0)

    monkeypatch.setattr(settle, "run_trial", answer)
    monkeypatch.setattr(settle, "MIN_TRIAL_ROWS", 1)
    monkeypatch.setattr(settle, "MIN_FLOAT32_S", 0.0)
    answers_and_asked = type("Trials", (), {"answers": answers, "asked": asked})
    return answers_and_asked


def figures(*, int8: float, bfloat16: float, speeds: tuple[float, float, float] = (10, 40, 20)) -> Trial:
    return Trial(
        50, {"int8": int8, "bfloat16": bfloat16}, dict(zip(("float32", "int8", "bfloat16"), speeds, strict=True))
    )


def written_precisions(folder) -> set[str]:
    files = (folder / "out" / "data").rglob("*.parquet")
    return {pq.read_metadata(file).metadata[b"distilbatch.precision"].decode() for file in files}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (figures(int8=1.0, bfloat16=1.0), "int8"),
        (figures(int8=0.9985, bfloat16=1.0), "bfloat16"),
        (figures(int8=0.99, bfloat16=0.5), "float32"),
        (figures(int8=1.0, bfloat16=1.0, speeds=(10, 10.2, 9)), "float32"),
        (figures(int8=1.0, bfloat16=1.0, speeds=(10, 12, 20)), "bfloat16"),
        ("the trial ended with code -9", "auto"),
        (Trial(50, {"bfloat16": 0.9995, "float16": 1.0}, {}, "cuda"), "bfloat16"),
        (Trial(50, {"bfloat16": 0.9985, "float16": 1.0}, {}, "cuda"), "float16"),
        (Trial(50, {"bfloat16": 0.99, "float16": 0.99}, {}, "cuda"), "float32"),
        (Trial(0, {}, {}), "float32"),  # a processor that has nothing faster
        (Trial(0, {"int8": 0.0}, {"float32": 0.0, "int8": 0.0}), "float32"),  # a sample without text
    ],
)
def test_auto_takes_the_fastest_that_keeps_the_labels(folder, trials, answer, expected):
    trials.answers.append(answer)
    config = tiny_job.job_config(folder)
    job, plan, ledger = planned(config)
    record = settle_record(job, plan, ledger)
    assert record.precision == expected
    if isinstance(answer, Trial):
        assert record.agreement == answer.agreement
        assert record.rows_per_s == answer.rows_per_s
        assert record.sample_rows == answer.rows
    else:
        assert answer in record.basis


def planned(config):
    from distilbatch.commit.ledger import RunLedger
    from distilbatch.commit.store import LocalStore
    from distilbatch.engine.driver import resolve_run
    from distilbatch.engine.planning import obtain_plan

    job = resolve_run(config)
    return job, obtain_plan(job, LocalStore()), RunLedger(LocalStore(), job.layout)


def settle_record(job, plan, ledger):
    chosen = settle.settle_precision(job, plan, ledger, stop=threading.Event())
    record = ledger.precision(plan)
    assert record is not None
    assert record.precision == chosen
    return record


@pytest.mark.parametrize(
    ("engine", "rows", "expected"),
    [
        ({}, 10, ("auto", "to be chosen by a trial on 30 rows")),
        (
            {"type": "ray"},
            10,
            ("auto", "to be chosen by a trial on 30 rows, if the workers compute on what this machine has"),
        ),
        ({}, 31, ("auto", "what suits the device; too little work to try others on a sample")),
        ({"device": "cuda:99"}, 10, ("auto", "what suits the workers' device, which this machine has not")),
        ({"precision": "int8"}, 10, ("int8", "asked for")),
        ({"precision": "float32", "min_agreement": 0.9}, 10, ("float32", "asked for")),
        ({"precision": "int8", "min_agreement": 0.9}, 31, ("int8", "to be checked by a trial on 60 rows")),
    ],
)
def test_a_plan_tells_what_will_be_settled_and_how(folder, monkeypatch, engine, rows, expected):
    monkeypatch.setattr(settle, "TRIAL_SHARE", 2)
    monkeypatch.setattr(settle, "MIN_TRIAL_ROWS", rows)
    monkeypatch.setattr(settle, "MIN_FLOAT32_S", 0.0)
    report = forecast.plan(tiny_job.job_config(folder, engine=engine), forecast=False)
    assert (report.precision, report.precision_basis) == expected


def test_a_plan_tells_what_was_settled(folder, trials):
    trials.answers.append(figures(int8=1.0, bfloat16=1.0))
    config = tiny_job.job_config(folder)
    record = settle_record(*planned(config))
    report = forecast.plan(config, forecast=False)
    assert (report.precision, report.precision_basis) == ("int8", record.basis)


def test_the_choice_is_made_once_and_a_resume_keeps_it(folder, trials):
    trials.answers += [figures(int8=1.0, bfloat16=1.0), figures(int8=0.0, bfloat16=0.0)]
    job, plan, ledger = planned(tiny_job.job_config(folder))
    assert settle_record(job, plan, ledger) == settle_record(job, plan, ledger)
    assert len(trials.asked) == 1


def test_a_lower_bar_lets_more_through(folder, trials):
    trials.answers.append(figures(int8=0.9, bfloat16=1.0))
    job, plan, ledger = planned(tiny_job.job_config(folder, engine={"min_agreement": 0.9}))
    assert settle_record(job, plan, ledger).precision == "int8"


def test_small_jobs_are_not_worth_a_trial(folder, trials, monkeypatch):
    monkeypatch.setattr(settle, "MIN_TRIAL_ROWS", 200)
    job, plan, ledger = planned(tiny_job.job_config(folder))
    record = settle_record(job, plan, ledger)
    assert (record.precision, record.sample_rows) == ("auto", 0)
    assert "too little work" in record.basis
    assert trials.asked == []


def least_seconds(config) -> float:
    job, plan, _ = planned(config)
    return cores_here(job.config.engine).seconds(forward_work(job, plan))


def test_few_long_rows_are_worth_a_trial_and_many_tiny_ones_are_not(folder, trials, monkeypatch):
    trials.answers.append(figures(int8=1.0, bfloat16=1.0))
    tiny_job.write_source(folder / "long" / "a.parquet", 40, words=400)
    tiny_job.write_source(folder / "tiny" / "a.parquet", 200, words=1)
    monkeypatch.setattr(tiny_job, "MAX_TOKENS", 512)
    tiny_job.write_checkpoint(folder / "model")
    long, tiny = (
        tiny_job.job_config(folder, job={"name": name}, source={"path": str(folder / name)})
        for name in ("long", "tiny")
    )
    monkeypatch.setattr(settle, "MIN_FLOAT32_S", 5 * least_seconds(tiny))
    assert settle_record(*planned(tiny)).precision == "auto"
    assert trials.asked == []
    assert settle_record(*planned(long)).precision == "int8"
    assert len(trials.asked) == 1


def test_a_trial_computes_a_small_part_of_the_job(folder, trials):
    trials.answers.append(figures(int8=1.0, bfloat16=1.0))
    tiny_job.write_source(folder / "source" / "a.parquet", 1200)
    settle_record(*planned(tiny_job.job_config(folder)))
    (asked,) = trials.asked
    assert len(asked.tasks) * asked.max_rows == 120
    assert asked.precisions is None  # its own process finds out what there is


@pytest.mark.parametrize(
    ("workers", "rows"),
    [(Capacity("cpu", 4), 1000), (Capacity("cpu", 2), 1000), (Capacity("cpu", 16), 500), (Capacity("cpu", 64), 0)],
    ids=lambda value: str(getattr(value, "units", value)),
)
def test_a_machine_that_is_small_beside_its_workers_tries_less(folder, workers, rows):
    tiny_job.write_source(folder / "source" / "a.parquet", 20_000)
    _, plan, _ = planned(tiny_job.job_config(folder))
    work = 1e15  # 2,500 s on four cores
    assert settle._trial_rows(plan, work, here=Capacity("cpu", 4), workers=workers) == rows


def test_workers_that_are_done_within_a_minute_are_not_waited_for_a_trial(folder):
    tiny_job.write_source(folder / "source" / "a.parquet", 20_000)
    _, plan, _ = planned(tiny_job.job_config(folder))
    here, workers = Capacity("cpu", 4), Capacity("cpu", 4)
    assert settle._trial_rows(plan, 0.9 * settle.MIN_FLOAT32_S * 4e11, here=here, workers=workers) == 0
    assert settle._trial_rows(plan, 1.1 * settle.MIN_FLOAT32_S * 4e11, here=here, workers=workers) == 1000


@pytest.mark.parametrize(
    ("here", "workers", "tried"),
    [("cpu", "cuda", False), ("cuda", "cpu", False), ("cpu", "cpu", True), ("cuda", "cuda", True)],
)
def test_a_machine_that_computes_otherwise_than_the_workers_decides_nothing(
    folder, trials, monkeypatch, caplog, here, workers, tried
):
    trials.answers.append(figures(int8=1.0, bfloat16=1.0))
    monkeypatch.setattr(settle, "capacity_here", lambda _engine: Capacity(here, 1))
    monkeypatch.setattr(settle, "capacity_of_workers", lambda _engine, _here: Capacity(workers, 1))
    record = settle_record(*planned(tiny_job.job_config(folder, engine={"type": "ray", "device": "auto"})))
    assert (record.precision, len(trials.asked)) == (("int8", 1) if tried else ("auto", 0))
    if not tried:
        reason = f"this machine computes on {here}, and the workers on {workers}"
        assert reason in record.basis
        assert reason in caplog.text


def test_a_choice_that_a_worker_cannot_compute_is_float32_there(folder, trials, monkeypatch, caplog):
    trials.answers.append(Trial(50, {"float16": 1.0}, {}, "cuda"))
    config = tiny_job.job_config(folder)
    assert settle_record(*planned(config)).precision == "float16"  # on a card; here is none
    report = run(config)
    assert report.num_rows == 60
    assert written_precisions(folder) == {"float32"}
    assert "float16 on a CPU" in caplog.text
    with pytest.raises(SetupError, match="float16 on a CPU"):  # but who asks for it is told
        run(tiny_job.job_config(folder, job={"name": "asked"}, engine={"precision": "float16"}))


def test_what_was_measured_can_be_read_in_plan_and_report(folder, trials):
    speeds = {"float32": 10, "int8": 15, "bfloat16": 21}
    trials.answers.append(Trial(1000, {"int8": 0.9714, "bfloat16": 0.99899}, speeds))
    config = tiny_job.job_config(folder)
    report = run(config)
    measured = "int8 97.14 % (1.5x), bfloat16 99.89 % (2.1x) of float32's labels on 1,000 rows"
    assert report.precision["basis"] == f"no faster one keeps 99.9 % of the labels: {measured}"
    printed = Console(width=200, file=io.StringIO())
    printed.print(*run_tables(report), *plan_tables(forecast.plan(config)))
    assert printed.file.getvalue().count(measured) == 2


def test_on_a_card_agreement_is_all_that_is_told(folder, trials):
    trials.answers.append(Trial(400, {"bfloat16": 1.0}, {}, "cuda"))
    record = settle_record(*planned(tiny_job.job_config(folder)))
    assert record.basis == (
        "the fastest that keeps 99.9 % of the labels: bfloat16 100 % of float32's labels on 400 rows"
    )


def test_a_precision_that_is_asked_for_is_not_tried_unless_a_bar_is_set(folder, trials):
    job, plan, ledger = planned(tiny_job.job_config(folder, engine={"precision": "int8"}))
    assert settle.settle_precision(job, plan, ledger, stop=threading.Event()) == "int8"
    assert ledger.precision(plan) is None
    assert trials.asked == []


@needs_int8
def test_a_precision_below_the_bar_is_refused_and_nothing_is_written(folder, trials):
    trials.answers.append(Trial(50, {"int8": 0.96}, {"float32": 1, "int8": 2}))
    config = tiny_job.job_config(folder, engine={"precision": "int8", "min_agreement": 0.97})
    with pytest.raises(
        DataError, match=r"int8 changes too many labels; expected 97 % .*found int8 96 % \(2\.0x\) .* on 50 rows"
    ):
        run(config)
    assert not list((folder / "out").rglob("*.parquet"))
    trials.answers.append(Trial(50, {"int8": 0.97}, {"float32": 1, "int8": 2}))
    report = run(config)
    assert report.precision["precision"] == "int8"
    assert report.precision["agreement"] == {"int8": 0.97}
    assert written_precisions(folder) == {"int8"}


def test_a_bar_that_cannot_be_checked_is_an_error(folder):
    with pytest.raises(SetupError, match=r"float16 cannot be checked.*found precision float16 on a CPU; .*leave"):
        run(tiny_job.job_config(folder, engine={"precision": "float16", "min_agreement": 0.5}))


@needs_int8
def test_a_real_trial_in_a_real_process_ends_up_in_plan_folder_report_and_footers(folder, monkeypatch):
    monkeypatch.setattr(settle, "TRIAL_SHARE", 1)
    monkeypatch.setattr(settle, "MIN_TRIAL_ROWS", 10)
    monkeypatch.setattr(settle, "MIN_FLOAT32_S", 0.0)
    monkeypatch.setattr(settle, "_WORTH", 0.0)  # whatever is faster on so tiny a model
    report = run(tiny_job.job_config(folder, engine={"min_agreement": 0.5}))
    assert report.precision["sample_rows"] == 54  # every tenth of 60 is null
    assert report.precision["agreement"]["int8"] >= 0.5
    assert min(report.precision["rows_per_s"].values()) > 0
    metrics = json.loads((folder / "out/_distilbatch/tiny/once/metrics.json").read_text())
    assert metrics["precision"] == report.precision
    assert written_precisions(folder) == {report.precision["precision"]}


@needs_int8
def test_a_trial_that_dies_says_why_and_one_that_is_stopped_ends(folder):
    job, plan, _ = planned(tiny_job.job_config(folder))
    spec = settle.worker_spec(job, plan)
    tasks = tuple(settle.ShardTask(shard, plan.fragments[shard.fragment]) for shard in plan.shards)
    (folder / "model" / "model.safetensors").write_bytes(b"broken")
    found = trial.run_trial(trial.Assignment(spec, tasks, 10, ("int8",)), stop=threading.Event())
    assert isinstance(found, str)
    assert "model.safetensors" in found
    (folder / "model" / "model.safetensors").unlink()
    hook = folder / "hook.py"
    hook.write_text("import os; os._exit(9)")
    found = trial.run_trial(
        trial.Assignment(replace(spec, pipeline=hook), tasks, 10, ("int8",)), stop=threading.Event()
    )
    assert isinstance(found, str)
    assert "ended with code 9" in found
    stop = threading.Event()
    stop.set()
    assert isinstance(trial.run_trial(trial.Assignment(spec, tasks, 10, ("int8",)), stop=stop), str)


def test_a_trial_that_hangs_ends_and_says_so(folder, caplog):
    job, plan, _ = planned(tiny_job.job_config(folder))
    tasks = (settle.ShardTask(plan.shards[0], plan.fragments[0]),)
    hook = folder / "hook.py"
    hook.write_text(
        "import time\nfrom distilbatch import Pipeline, TextClassification\n"
        "def before(batch):\n    time.sleep(1000)\n"
        'PIPELINE = Pipeline(annotate=[TextClassification(name="answer")], before=before)\n'
    )
    spec = replace(settle.worker_spec(job, plan), pipeline=hook, hang_timeout_s=8.0)
    found = trial.run_trial(trial.Assignment(spec, tasks, 10, ("int8",)), stop=threading.Event())
    assert found == "the trial made no progress for 8 s (engine.hang_timeout_s); its stacks are in the log"
    assert 'hook.py", line 4 in before' in caplog.text


def test_measuring_in_this_process_compares_each_precision_with_float32(folder):
    job, plan, _ = planned(tiny_job.job_config(folder))
    spec = settle.worker_spec(job, plan)
    tasks = tuple(settle.ShardTask(shard, plan.fragments[shard.fragment]) for shard in plan.shards)
    found = trial_process.measure(trial.Assignment(spec, tasks, 10, ("float32", "bfloat16")))
    assert found.rows == 27  # 10 of each 20, without nulls
    assert found.agreement["float32"] == 1.0
    assert 0.5 < found.agreement["bfloat16"] <= 1.0
    assert set(found.rows_per_s) == {"float32", "bfloat16"}
    assert found.device == "cpu"


def test_a_trial_finds_out_what_its_device_computes_faster(folder, monkeypatch):
    job, plan, _ = planned(tiny_job.job_config(folder))
    task = settle.ShardTask(plan.shards[0], plan.fragments[0])
    assignment = trial.Assignment(settle.worker_spec(job, plan), (task,), 10, None)
    monkeypatch.setattr(trial_process, "fast_precisions", lambda _device: ("bfloat16",))
    assert trial_process.measure(assignment).agreement.keys() == {"bfloat16"}
    monkeypatch.setattr(trial_process, "fast_precisions", lambda _device: ())
    assert trial_process.measure(assignment) == Trial(0, {}, {}, "cpu")


def test_a_card_is_not_asked_for_its_speed(folder, monkeypatch):
    job, plan, _ = planned(tiny_job.job_config(folder))
    task = settle.ShardTask(plan.shards[0], plan.fragments[0])
    monkeypatch.setattr(trial_process, "resolve_device", lambda _device: torch.device("cuda", 0))
    found = trial_process.measure(trial.Assignment(settle.worker_spec(job, plan), (task,), 10, ("bfloat16",)))
    assert (found.device, found.rows_per_s) == ("cuda", {})
    assert found.rows == 9


def test_repeated_documents_are_counted(folder):
    pq.write_table(
        pa.table({"id": [1, 2, 3], "group": ["a"] * 3, "text": ["red", "RED ", "blue"]}), folder / "b.parquet"
    )
    config = tiny_job.job_config(folder, source={"path": str(folder / "b.parquet")})
    report = run(config)
    assert report.documents_repeated == 1
    assert report.tokens_computed == report.tokens - 3
