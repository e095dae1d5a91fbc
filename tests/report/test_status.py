"""Status tells how far a run is from its records, and who works on it, without waiting or writing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading

import pytest
import tiny_job

import distilbatch
from distilbatch.commit.claims import ClaimChain
from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.ownership import Ownership, owner_state
from distilbatch.commit.records import OwnerRecord
from distilbatch.commit.store import LocalStore
from distilbatch.engine.driver import resolve_run
from distilbatch.engine.planning import build_plan, list_source
from distilbatch.errors import DataError
from distilbatch.layout import SinkLayout
from distilbatch.report.status import Owner, RunStatus, status

STORE = LocalStore()


def only(sink) -> RunStatus:
    (entry,) = status(sink)
    return entry


def rewind(place) -> None:
    """As if the run had been killed with one of its four shards committed."""
    for name in ("done.json", "commit.json", "metrics.json", *(f"shards/0000{index}.json" for index in (1, 2, 3))):
        (place.run / name).unlink()
    shutil.rmtree(place.sink / "data")


def own(place, **changes) -> OwnerRecord:
    """Take the run in this process, and leave the record as ``changes`` say."""
    owner = Ownership(STORE, SinkLayout(place.sink).run("tiny", "once"))
    owner.take()
    owner.release()
    path = place.run / "epoch" / f"{owner.epoch:06d}.json"
    path.with_suffix(".hb").write_bytes(b"1\n")  # silent, as if it had not been released
    record = OwnerRecord.model_validate_json(path.read_bytes()).model_copy(update=changes)
    path.write_bytes(record.to_bytes())
    return record


def test_a_published_run(finished):
    entry = only(finished.sink)
    assert (entry.run_key, entry.state, entry.problem) == ("tiny/once", "published", "")
    assert (entry.shards_done, entry.shards, entry.rows_done, entry.rows, entry.error_rows) == (4, 4, 70, 70, 0)
    assert entry.owner is not None
    assert (entry.owner.epoch, entry.owner.liveness) == (1, "released")
    assert entry.metrics is not None
    assert entry.metrics["num_rows"] == 70
    assert json.loads(json.dumps(entry.to_dict()))["owner"]["liveness"] == "released"


def test_a_run_that_was_killed_is_interrupted(finished):
    rewind(finished)
    record = own(finished, process="before the last reboot")
    entry = only(finished.sink)
    assert (entry.state, entry.shards_done, entry.shards) == ("interrupted", 1, 4)
    assert (entry.rows_done, entry.rows, entry.metrics) == (20, 70, None)
    assert entry.owner == Owner(record.host.split("|")[0], record.pid, 2, "dead")


def test_a_run_with_a_live_owner_is_running(finished):
    rewind(finished)
    own(finished)
    entry = only(finished.sink)
    assert entry.state == "running"
    assert entry.owner is not None
    assert entry.owner.liveness == "alive"


def test_an_owner_on_another_machine_is_not_waited_for(finished, monkeypatch):
    rewind(finished)
    own(finished, host="elsewhere|boot|namespace")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("status slept"))
    entry = only(finished.sink)
    assert entry.state == "running"
    assert entry.owner is not None
    assert (entry.owner.host, entry.owner.liveness) == ("elsewhere", "unknown")


def test_a_process_that_has_ended_is_dead(finished):
    program = (
        "import sys; from pathlib import Path; from distilbatch.commit.ownership import Ownership;"
        "from distilbatch.commit.store import LocalStore; from distilbatch.layout import SinkLayout;"
        "Ownership(LocalStore(), SinkLayout(Path(sys.argv[1])).run('tiny', 'once')).take(); import os; os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(finished.sink)], check=False)
    found = owner_state(STORE, SinkLayout(finished.sink).run("tiny", "once"))
    assert found is not None
    assert (found.record.epoch, found.liveness) == (2, "dead")


def test_nobody_owns_a_run_that_was_only_planned(fresh):
    job = resolve_run(fresh.config())
    plan = build_plan(job, list_source(job), [])
    ClaimChain(STORE, job.sink, job.name).claim(lambda earlier: plan)  # a crash here leaves a claim without plan.json
    assert owner_state(STORE, job.layout) is None
    expected = RunStatus("tiny/once", "planned", shards=4, rows=70)
    assert only(fresh.sink) == expected
    RunLedger(STORE, job.layout).create_plan(plan)
    assert only(fresh.sink) == expected


def test_a_decided_run_is_committed(finished):
    (finished.run / "done.json").unlink()
    assert only(finished.sink).state == "committed"


def test_error_rows_are_counted(finished):
    path = finished.run / "shards" / "00000.json"
    record = json.loads(path.read_text()) | {"statuses": {"ok": 17, "error": 3}}
    path.write_text(json.dumps(record))
    assert only(finished.sink).error_rows == 3


@pytest.mark.parametrize("name", ["plan.json", "done.json", "commit.json", "shards/00002.json", "epoch/000001.json"])
def test_a_damaged_record_shows_in_its_entry(finished, name):
    (finished.run / name).write_bytes(b"{")
    entry = only(finished.sink)
    assert entry.state == "damaged"
    assert entry.problem.startswith(f"{finished.run / name}: not a valid ")


def test_damaged_figures_are_no_problem(finished):
    (finished.run / "metrics.json").write_bytes(b"{")
    entry = only(finished.sink)
    assert (entry.state, entry.metrics) == ("published", None)


def test_runs_come_in_the_order_of_their_claims(fresh):
    for day in ("2026-11-02", "2026-11-01"):
        distilbatch.run(fresh.config(), day=day)
    distilbatch.run(fresh.config(job={"name": "early"}, sink={"passthrough": []}))
    keys = [entry.run_key for entry in status(fresh.sink)]
    assert keys == ["early/once", "tiny/2026-11-02", "tiny/2026-11-01"]


def test_a_folder_that_is_no_sink(tmp_path):
    with pytest.raises(DataError, match=r"expected the folder that sink.path names; found nothing there; check"):
        status(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no run was ever planned here"):
        status(tmp_path)


def test_status_writes_nothing(finished):
    before = tiny_job.tree(finished.folder)
    threads = threading.active_count()
    status(finished.sink)
    assert tiny_job.tree(finished.folder) == before
    assert threading.active_count() == threads
