"""Verify finds every kind of damage to a finished output, says which it is, and finds nothing in a whole one."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tiny_job
import yaml

import distilbatch
from distilbatch.commit.records import ClaimRecord, DoneRecord, PlanRecord
from distilbatch.config import load_config
from distilbatch.engine.driver import Driver, Progress, resolve_run
from distilbatch.errors import ConfigError, DataError, InterruptedRunError
from distilbatch.fingerprint import sha256_file
from distilbatch.report.status import status
from distilbatch.report.verify import verify


def edit(path: Path, change: Callable[[Any], object]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def rewrite(place, index: int, change: Callable[[pa.Table], pa.Table], *, count: bool = False) -> str:
    """Rewrite a published file and make checksum and size in the records fit, so that only its content is wrong.

    Args:
        count: Also make the row counts of the records and of the footer fit.
    """
    path = place.files()[index]
    name, old = path.relative_to(place.sink).as_posix(), sha256_file(path)
    table = change(pq.read_table(path, partitioning=None))
    footer = dict(pq.read_metadata(path).metadata)
    if count:
        footer[b"distilbatch.num_rows"] = str(table.num_rows).encode()
    del footer[b"ARROW:schema"]
    pq.write_table(table.replace_schema_metadata(footer), path)

    def adopt(record: dict[str, Any]) -> None:
        for file in record["files"]:
            if file["sha256"] == old:
                file |= {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}
                if count:
                    file["num_rows"] = table.num_rows

    for record in [place.run / "done.json", *place.run.glob("shards/*.json")]:
        edit(record, adopt)
    return name


def set_row_field(table: pa.Table, name: str, change: Callable[[pa.Array], pa.Array]) -> pa.Table:
    row = table.column("_row").combine_chunks()
    arrays = [change(row.field(f.name)) if f.name == name else row.field(f.name) for f in row.type]
    return table.set_column(
        table.column_names.index("_row"),
        pa.field("_row", row.type, nullable=False),
        pa.StructArray.from_arrays(arrays, fields=list(row.type)),
    )


def test_a_finished_run_is_whole(finished):
    report = verify(finished.sink)
    assert report.ok
    assert (report.problems, report.unfinished, report.notes) == ((), (), ())
    assert (report.rows, report.files) == (70, 4)
    assert [(run.run_key, run.state, run.rows, run.files) for run in report.runs] == [("tiny/once", "published", 70, 4)]


def test_the_report_is_json(finished):
    (finished.sink / "data" / "x.parquet").write_bytes(b"")
    values = json.loads(json.dumps(verify(finished.sink).to_dict()))
    assert values["ok"] is False
    assert values["runs"] == [{"run_key": "tiny/once", "state": "published", "rows": 70, "files": 4}]
    assert len(values["problems"]) == 1


def test_partitions_of_a_shard_are_put_together(fresh):
    distilbatch.run(fresh.config(sink={"partition_by": ["group"]}))
    report = distilbatch.verify(fresh.sink)
    assert (report.ok, report.rows, report.files) == (True, 70, 8)


def test_an_empty_run_is_whole(fresh):
    distilbatch.run(fresh.config(), day="2026-11-01")
    distilbatch.run(fresh.config(), day="2026-11-02")
    report = verify(fresh.sink)
    assert report.ok
    assert [(run.run_key, run.rows) for run in report.runs] == [("tiny/2026-11-01", 70), ("tiny/2026-11-02", 0)]


def test_two_windows_over_growing_data_are_whole_together(fresh):
    distilbatch.run(fresh.config(), day="2026-11-01")
    tiny_job.write_source(fresh.folder / "source" / "c.parquet", 30, first=70)
    distilbatch.run(fresh.config(), day="2026-11-02")
    report = verify(fresh.sink)
    assert (report.ok, report.rows, report.files) == (True, 100, 6)
    assert [run.rows for run in report.runs] == [70, 30]


def test_two_jobs_with_one_sink_are_checked_apart(finished):
    tiny_job.write_source(finished.folder / "other" / "a.parquet", 25)
    distilbatch.run(finished.config(job={"name": "other"}, source={"path": str(finished.folder / "other")}))
    report = verify(finished.sink)
    assert (report.problems, report.rows) == ((), 95)
    assert [run.run_key for run in report.runs] == ["other/once", "tiny/once"]


# Damaged files.


def test_a_deleted_file(finished):
    path = finished.files()[1]
    path.unlink()
    name = path.relative_to(finished.sink).as_posix()
    assert verify(finished.sink).problems == (f"{name}: the file is gone; restore it from a copy",)
    assert verify(finished.sink).rows == 50


@pytest.mark.parametrize("position", [4, 600, -5], ids=["first page", "middle", "footer"])
def test_a_flipped_bit(finished, position):
    path = finished.files()[0]
    before = sha256_file(path)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    name = path.relative_to(finished.sink).as_posix()
    assert verify(finished.sink).problems == (
        f"{name}: the file was changed after it was published; expected sha256 {before[:12]}; "
        f"found sha256 {sha256_file(path)[:12]}; restore it from a copy",
    )


def test_a_file_of_another_size(finished):
    path = finished.files()[0]
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"x")
    name = path.relative_to(finished.sink).as_posix()
    assert verify(finished.sink).problems == (
        f"{name}: the file was changed after it was published; expected {size} bytes; found {size + 1} bytes; "
        "restore it from a copy",
    )


def test_a_folder_in_place_of_a_file(finished):
    path = finished.files()[0]
    path.unlink()
    path.mkdir()
    assert len(verify(finished.sink).problems) == 1
    assert "the file" in verify(finished.sink).problems[0]


def test_a_file_that_is_there_twice(finished):
    shutil.copy(finished.files()[0], finished.sink / "data" / "copy.parquet")
    assert verify(finished.sink).problems == (
        "data/copy.parquet: no run published this file; move it away: readers take it for a result",
    )


def test_foreign_files_wherever_they_lie_below_data(finished):
    (finished.sink / "data" / "a" / "b").mkdir(parents=True)
    (finished.sink / "data" / "a" / "b" / ".hidden").write_bytes(b"")
    (finished.sink / "data" / "link").symlink_to(finished.folder / "source")
    remedy = "no run published this file; move it away: readers take it for a result"
    assert verify(finished.sink).problems == (f"data/link: {remedy}", f"data/a/b/.hidden: {remedy}")


def test_a_temporary_file(finished):
    (finished.sink / "data" / "x.tmp").write_bytes(b"")
    assert verify(finished.sink).problems == ("data/x.tmp: a temporary file among the published ones; remove it",)


# Files whose bytes fit the records and whose content does not.


def test_dropped_rows(finished):
    name = rewrite(finished, 1, lambda table: pa.concat_tables([table.slice(0, 3), table.slice(5, 1), table.slice(7)]))
    assert verify(finished.sink).problems == (
        f"{name}: its rows are not those that were recorded; expected 20 rows; found 17 rows",
        "tiny/once: shard 1: 3 rows are missing; expected rows [20, 40) of a.parquet, each once; "
        "found [23, 25), [26, 27)",
        "tiny/once: shard 1: the rows do not have the statuses that its record counts; expected 2 null, 18 ok; "
        "found 2 null, 15 ok",
    )


def test_a_row_in_place_of_another(finished):
    def change(table: pa.Table) -> pa.Table:
        return pa.concat_tables([table.slice(0, 19), table.slice(0, 1)])

    rewrite(finished, 3, change)
    found = verify(finished.sink).problems
    assert found[:2] == (
        "tiny/once: shard 3: 1 rows are missing; expected rows [0, 20) of b.parquet, each once; found [19, 20)",
        "tiny/once: shard 3: 1 rows are there more than once; expected rows [0, 20) of b.parquet, each once; "
        "found [0, 1)",
    )


def test_rows_of_another_shard(finished):
    rewrite(finished, 0, lambda table: set_row_field(table, "source_row", lambda rows: pc.add(rows, 1)))
    assert verify(finished.sink).problems == (
        "tiny/once: shard 0: 1 rows are missing; expected rows [0, 20) of a.parquet, each once; found [0, 1)",
        "tiny/once: shard 0: 1 rows do not belong to it; expected rows [0, 20) of a.parquet, each once; found [20, 21)",
    )


def test_rows_of_another_source_file(finished):
    def change(table: pa.Table) -> pa.Table:
        return set_row_field(table, "source_file", lambda files: pa.array(["z.parquet", None, *files.to_pylist()[2:]]))

    rewrite(finished, 0, change)
    assert verify(finished.sink).problems == (
        "tiny/once: shard 0: 1 rows are of another file; expected a.parquet; found None",
        "tiny/once: shard 0: 1 rows are of another file; expected a.parquet; found z.parquet",
    )


def test_statuses_that_the_record_does_not_count(finished):
    rewrite(finished, 0, lambda table: set_row_field(table, "status", lambda s: pa.array(["error"] * len(s))))
    assert verify(finished.sink).problems == (
        "tiny/once: shard 0: the rows do not have the statuses that its record counts; expected 2 null, 18 ok; "
        "found 20 error",
    )


def test_lost_rows_that_records_and_footer_agree_about(finished):
    rewrite(finished, 0, lambda table: table.slice(1), count=True)
    found = verify(finished.sink).problems
    assert "tiny/once: the record of shard 0 has lost or gained rows; expected 20 rows; found 19, 20" in found
    assert (
        "tiny/once: shard 0: 1 rows are missing; expected rows [0, 20) of a.parquet, each once; found [0, 1)" in found
    )


def test_other_columns_than_the_other_files(finished):
    name = rewrite(finished, 1, lambda table: table.drop_columns(["id"]))
    first = finished.files()[0].relative_to(finished.sink).as_posix()
    (problem,) = verify(finished.sink).problems
    assert problem.startswith(f"{name}: other columns than {first}; expected id: int64 ")


def test_no_row_column(finished):
    name = rewrite(finished, 0, lambda table: table.drop_columns(["_row"]))
    assert verify(finished.sink).problems[0].startswith(f"{name}: no usable column '_row'; expected struct<status")


def test_a_file_that_is_no_parquet(finished):
    path = finished.files()[0]
    old, name = sha256_file(path), path.relative_to(finished.sink).as_posix()
    path.write_bytes(b"not parquet")
    for record in (finished.run / "done.json", finished.run / "shards" / "00000.json"):
        text = record.read_text().replace(old, sha256_file(path))
        record.write_text(text)
        edit(record, lambda r: [f.update(size_bytes=11) for f in r["files"] if f["sha256"] == sha256_file(path)])
    (problem,) = verify(finished.sink).problems
    assert problem.startswith(f"{name}: the file cannot be read; expected a Parquet file; found ")


# Damaged records.


def test_a_footer_of_another_attempt(finished):
    attempt = json.loads((finished.run / "shards" / "00002.json").read_text())["attempt_id"]
    for path in (finished.run / "shards" / "00002.json", finished.run / "commit.json"):
        path.write_text(path.read_text().replace(attempt, "0" * 32))
    name = finished.files()[2].relative_to(finished.sink).as_posix()
    assert verify(finished.sink).problems == (
        f"{name}: footer value distilbatch.attempt_id; expected {'0' * 32}; found {attempt}",
    )


@pytest.mark.parametrize("name", ["plan.json", "commit.json", "done.json", "shards/00001.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff"])
def test_a_record_that_cannot_be_read_is_a_problem_and_no_crash(finished, name, content):
    (finished.run / name).write_bytes(content)
    report = verify(finished.sink)
    assert not report.ok
    kind = {"plan.json": "PlanRecord", "commit.json": "CommitRecord", "done.json": "DoneRecord"}
    assert re.match(
        rf"{re.escape(str(finished.run / name))}: not a valid {kind.get(name, 'ShardRecord')}; found .*; "
        "the control folder was edited or damaged; restore it or write to a new sink.path$",
        report.problems[0],
    )
    assert not any("no run published" in problem for problem in report.problems)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("plan.json", "the plan is gone"),
        ("commit.json", "commit.json is gone"),
        ("shards/00003.json", "the record of shard 3 is gone"),
    ],
)
def test_a_record_that_is_gone(finished, name, problem):
    (finished.run / name).unlink()
    assert any(line.endswith(f"{problem}; restore it from a copy") for line in verify(finished.sink).problems)


def test_an_edited_row_count(finished):
    edit(finished.run / "shards" / "00001.json", lambda record: record.update(num_rows=19))
    assert verify(finished.sink).problems == (
        "tiny/once: the record of shard 1 has lost or gained rows; expected 20 rows; found 19, 20",
    )


def test_edited_statuses(finished):
    edit(finished.run / "shards" / "00001.json", lambda record: record.update(statuses={"ok": 20}))
    assert verify(finished.sink).problems == (
        "tiny/once: shard 1: the rows do not have the statuses that its record counts; expected 20 ok; "
        "found 2 null, 18 ok",
        "tiny/once: commit.json does not add up the shard records",
    )


def test_a_file_that_done_does_not_list(finished):
    edit(finished.run / "done.json", lambda record: record["files"].pop(0))
    name = finished.files()[0].relative_to(finished.sink).as_posix()
    assert verify(finished.sink).problems == (
        f"tiny/once: done.json and the record of shard 0 disagree about {name}",
        f"{name}: no run published this file; move it away: readers take it for a result",
    )


def test_a_file_that_only_done_lists(finished):
    extra = {"path": "data/x.parquet", "num_rows": 1, "size_bytes": 1, "sha256": "0" * 64}
    edit(finished.run / "done.json", lambda record: record["files"].append(extra))
    assert verify(finished.sink).problems == ("tiny/once: done.json lists data/x.parquet, which no shard record names",)


def test_records_of_another_plan(finished):
    edit(finished.run / "done.json", lambda record: record.update(plan_id="0" * 64))
    (problem,) = verify(finished.sink).problems
    assert re.fullmatch(
        r"tiny/once: done.json belongs to another plan; expected [0-9a-f]{12}; found 000000000000", problem
    )


def test_an_impossible_path_in_a_record(finished):
    def change(record: dict[str, Any]) -> None:
        record["files"][0]["size_bytes"] = -1

    edit(finished.run / "shards" / "00000.json", change)
    assert any("an impossible file 'data/part-00000-" in problem for problem in verify(finished.sink).problems)


@pytest.mark.parametrize(
    ("change", "message", "state"),
    [
        # A plan that cannot be read is told, and the claim says what was planned.
        (lambda plan: plan.update(window="other"), "plan.json: the plan of another run", "published"),
        (lambda plan: plan["shards"][0].update(row_stop=1000), "plan.json: not a valid ", "published"),
        (lambda plan: plan["semantic"].update(floating=0.5), "plan.json was edited or damaged; found ", "damaged"),
    ],
    ids=["another run", "too many rows", "a float"],
)
def test_an_edited_plan_that_does_not_hold_together(finished, change, message, state):
    edit(finished.run / "plan.json", change)
    report = verify(finished.sink)
    assert message in report.problems[0]
    assert "restore it" in report.problems[0]
    assert report.runs[0].state == state
    assert not report.ok


def test_an_edited_plan_that_holds_together(finished):
    edit(finished.run / "plan.json", lambda plan: plan["semantic"].update(max_doc_bytes=7))
    found = verify(finished.sink).problems
    assert found[0].startswith("tiny/once: done.json belongs to another plan")
    assert found[-1] == "tiny/once: plan.json is not the plan that was claimed"


def test_a_shard_that_was_not_planned(finished):
    shutil.copy(finished.run / "shards" / "00000.json", finished.run / "shards" / "00009.json")
    assert verify(finished.sink).problems == ("tiny/once: shards are recorded that were not planned; found 9",)


def test_a_gap_in_the_chain_of_claims(finished):
    claims = finished.sink / "_distilbatch" / "tiny" / "claims"
    (claims / "000001.json").rename(claims / "000003.json")
    assert verify(finished.sink).problems == (
        f"{claims / '000001.json'}: a claim is missing; expected claims numbered without a gap; "
        "found 000003 after 000000; restore it; claims are never withdrawn",
    )


def test_a_plan_without_a_claim(finished):
    (finished.sink / "_distilbatch" / "tiny" / "claims" / "000001.json").unlink()
    assert verify(finished.sink).problems == ("tiny/once: its plan is not in the job's chain of claims",)


def test_two_runs_that_claim_the_same_rows(finished):
    plan = PlanRecord.model_validate_json((finished.run / "plan.json").read_bytes())
    again = plan.model_copy(update={"window": "twice", "shards": (replace(plan.shards[3], index=0),)})
    claims = finished.sink / "_distilbatch" / "tiny" / "claims"
    (claims / "000002.json").write_bytes(ClaimRecord(plan=again).to_bytes())
    report = verify(finished.sink)
    assert report.problems == (
        "b.parquet: rows are claimed twice; expected each row in one shard of one run; "
        "found [0, 20) of tiny/once and [0, 20) of tiny/twice",
    )
    assert report.unfinished == (
        "tiny/twice: unfinished (planned); 0 of 1 shards committed; run the same command again",
    )


def test_two_runs_that_published_the_same_file(finished):
    other = finished.run.parent / "twice"
    plan = PlanRecord.model_validate_json((finished.run / "plan.json").read_bytes()).model_copy(
        update={"window": "twice"}
    )
    done = DoneRecord.model_validate_json((finished.run / "done.json").read_bytes())
    other.mkdir()
    (other / "plan.json").write_bytes(plan.to_bytes())
    (other / "done.json").write_bytes(done.model_copy(update={"plan_id": plan.plan_id}).to_bytes())
    name = finished.files()[0].relative_to(finished.sink).as_posix()
    problem = f"{name}: two runs have published this file; found tiny/once and tiny/twice"
    assert problem in verify(finished.sink).problems


# Unfinished runs.


class StopAfterFirst(Progress):
    """Stops a run once a shard is committed."""

    def __init__(self, stop) -> None:
        self._stop = stop

    def shard_committed(self, result) -> None:
        self._stop.set()


def test_an_interrupted_run_is_unfinished_until_it_is_resumed(fresh):
    stop = threading.Event()
    with pytest.raises(InterruptedRunError):
        Driver(resolve_run(fresh.config()), progress=StopAfterFirst(stop), stop=stop).run()
    done = status(fresh.sink)[0].shards_done
    report = verify(fresh.sink)
    assert not report.ok
    assert report.problems == ()
    assert report.unfinished == (
        f"tiny/once: unfinished (interrupted); {done} of 4 shards committed; run the same command again",
    )
    distilbatch.run(fresh.config())
    assert verify(fresh.sink).ok


def test_a_decided_run_that_is_partly_published_is_unfinished_and_its_files_are_its_own(finished):
    (finished.run / "done.json").unlink()
    finished.files()[3].unlink()
    report = verify(finished.sink)
    assert report.problems == ()
    assert report.unfinished == (
        "tiny/once: unfinished (committed); 4 of 4 shards committed; publishing is not finished; "
        "run the same command again",
    )


def test_files_of_a_run_that_was_not_decided_are_foreign(finished):
    (finished.run / "done.json").unlink()
    (finished.run / "commit.json").unlink()
    report = verify(finished.sink)
    assert len(report.problems) == 4
    assert all("no run published this file" in problem for problem in report.problems)


# What is no fault of the output.


def test_a_changed_source_is_a_note(finished):
    plan = PlanRecord.model_validate_json((finished.run / "plan.json").read_bytes())
    source = Path(plan.source_root)
    moved = source.with_name("moved")
    source.rename(moved)
    try:
        gone = verify(finished.sink)
        shutil.copytree(moved, source)
        (source / "a.parquet").unlink()
        (source / "b.parquet").write_bytes(b"other")
        changed = verify(finished.sink)
    finally:
        shutil.rmtree(source, ignore_errors=True)
        moved.rename(source)
    assert gone.ok
    assert gone.notes == (f"tiny/once: the source {source} is not there (seen from this folder)",)
    assert changed.ok
    assert changed.notes == (
        "tiny/once: 1 of 2 source files are gone since they were planned",
        "tiny/once: 1 of 2 source files have changed since they were planned",
    )


def test_a_source_file_that_was_left_out_is_a_note(fresh):
    (fresh.folder / "source" / "bad.parquet").write_bytes(b"")
    distilbatch.run(fresh.config(source={"on_bad_file": "quarantine"}))
    report = verify(fresh.sink)
    assert report.ok
    assert report.notes == ("tiny/once: 1 unreadable source files were left out: bad.parquet",)


# What to verify.


def test_a_config_or_its_file_stands_for_its_sink(finished):
    file = finished.folder / "job.yaml"
    file.write_text(yaml.safe_dump(finished.config()))
    config = load_config(file, environ={})
    assert verify(file) == verify(str(file)) == verify(config) == verify(str(finished.sink)) == verify(finished.sink)


def test_a_sink_of_the_day_has_to_be_named(finished):
    config = load_config(finished.config(sink={"path": "out/{{ date }}"}), environ={})
    with pytest.raises(ConfigError, match=r"sink.path: 'out/\{\{ date \}\}' is another folder for each run; name the"):
        verify(config)


def test_a_folder_that_is_no_sink(tmp_path):
    with pytest.raises(DataError, match=r"nowhere; expected a sink's folder or a config file; found nothing"):
        verify(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r": no run was ever planned here; expected a folder that distilbatch run"):
        verify(tmp_path)
    config = load_config(tiny_job.job_config(tmp_path), environ={})
    with pytest.raises(DataError, match=r"out; expected the folder that sink.path names; found nothing there"):
        verify(config)


def test_verify_writes_nothing(finished):
    before = tiny_job.tree(finished.folder)
    verify(finished.sink)
    assert tiny_job.tree(finished.folder) == before
