from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_samples import assert_exact, config_of, labelled, random_texts, write_source

from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import DeathRecord, PlanRecord
from distilbatch.commit.store import LocalStore
from distilbatch.engine.crashes import CRASH_MESSAGE
from distilbatch.engine.driver import Driver, resolve_run
from distilbatch.engine.executor import Executor
from distilbatch.engine.local import LocalExecutor
from distilbatch.engine.planning import obtain_plan
from distilbatch.engine.spec import Outcome, PoolEvent, WorkerSpec
from distilbatch.errors import ConflictError, ResourceError
from distilbatch.layout import RunLayout


class Searching(Executor):
    """Finds that two rows kill, and gives up."""

    def __init__(self, spec: WorkerSpec) -> None:
        pass

    def run(self, tasks, *, stop) -> Iterator[Outcome]:
        yield PoolEvent("died", "a worker died (1 so far)")
        yield PoolEvent("crashing_rows", "rows [61, 65] of part-0.parquet kill workers", shard=1, rows=(61, 65))
        yield PoolEvent("crashing_rows", "rows [9] of part-0.parquet hang workers", shard=0, rows=(9,), error="slow")
        raise ResourceError("workers keep dying")


def test_rows_that_kill_are_on_record_and_no_later_run_computes_them(tmp_path, checkpoint):
    source = write_source(tmp_path / "in", random_texts(100), group_rows=50)
    job = resolve_run(config_of(source, tmp_path / "out", checkpoint, shard_rows=50))
    with pytest.raises(ResourceError):
        Driver(job, make_executor=lambda job, spec: Searching(spec)).run()
    evidence = sorted((tmp_path / "out" / "_distilbatch").rglob("deaths/*/*.json"))
    assert [path.relative_to(job.layout.deaths).as_posix() for path in evidence] == [
        "00000/000001.json",
        "00001/000001.json",
    ]
    report = Driver(job, make_executor=lambda job, spec: LocalExecutor(spec)).run()
    assert report.statuses["error"] == 3
    errors = [(row[0], row[2]) for row in labelled(tmp_path / "out") if row[1] == "error"]
    assert errors == [(9, "slow"), (61, CRASH_MESSAGE), (65, CRASH_MESSAGE)]
    assert_exact(tmp_path / "out", source)
    assert all(path.exists() for path in evidence)  # kept, for whoever looks into them


@pytest.fixture
def plan(tmp_path, checkpoint) -> PlanRecord:
    source = write_source(tmp_path / "in", ["bada"])
    return obtain_plan(resolve_run(config_of(source, tmp_path / "out", checkpoint)), LocalStore())


@pytest.fixture
def ledger(tmp_path: Path) -> RunLedger:
    return RunLedger(LocalStore(), RunLayout(tmp_path / "records", "job", "once"))


def death(plan: PlanRecord, index: int, *rows: int, error: str = "") -> DeathRecord:
    return DeathRecord(index=index, plan_id=plan.plan_id, rows=rows, message="", error=error)


def test_findings_about_a_shard_add_up(ledger, plan):
    assert ledger.crashing_rows(plan) == {}
    ledger.record_crashing_rows(death(plan, 3, 9, 4))
    ledger.record_crashing_rows(death(plan, 3, 4, 7, error="slow"))
    ledger.record_crashing_rows(death(plan, 12, 1))
    assert ledger.crashing_rows(plan) == {3: {4: "slow", 7: "slow", 9: ""}, 12: {1: ""}}
    assert (ledger.layout.deaths / "00003" / "000002.json").is_file()


def test_findings_of_another_plan_do_not_count(ledger, plan):
    other = plan.model_copy(update={"job": "other"})
    ledger.record_crashing_rows(death(other, 3, 9))
    assert ledger.crashing_rows(plan) == {}
    assert ledger.crashing_rows(other) == {3: {9: ""}}


@pytest.mark.parametrize("content", [b"{}", b'{"rows": [-1]}', b"\xff", b""])
def test_a_damaged_finding_stops_the_run(ledger, plan, content):
    path = ledger.layout.death(0, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ConflictError, match=r"deaths/00000/000001\.json: not a valid DeathRecord"):
        ledger.crashing_rows(plan)
