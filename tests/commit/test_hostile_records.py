"""A control folder that was edited, damaged or planted stops a run with a conflict and leads nowhere else."""

from __future__ import annotations

import base64
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from fakes import FakeExecutor, KilledError, Workspace, files_below

from distilbatch.commit.claims import ClaimChain
from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import (
    ClaimRecord,
    CommitRecord,
    DoneRecord,
    OwnerRecord,
    PlanRecord,
    PrecisionRecord,
    ShardRecord,
    encode_schema,
    parse,
)
from distilbatch.commit.store import LocalStore
from distilbatch.errors import ConflictError

STORE = LocalStore()


def die(name: str) -> None:
    raise KilledError


@pytest.fixture(scope="module")
def templates(tmp_path_factory) -> Path:
    """A finished run of two shards, and one that died before its first shard."""
    root = tmp_path_factory.mktemp("templates")
    for name, failpoint in (("finished", lambda name: None), ("planned", die)):
        workspace = Workspace(root / name)
        workspace.write_file("a.parquet", 7)
        with suppress(KilledError):
            workspace.driver(
                workspace.job(), make_executor=lambda job, spec, at=failpoint: FakeExecutor(spec, failpoint=at)
            ).run()
    return root


@pytest.fixture
def finished(tmp_path, templates) -> Workspace:
    """A copy of the finished run."""
    return Workspace(shutil.copytree(templates / "finished", tmp_path / "copy"))


@pytest.fixture
def planned(tmp_path, templates) -> Workspace:
    """A copy of the run that died."""
    return Workspace(shutil.copytree(templates / "planned", tmp_path / "copy"))


def change(path, edit) -> None:
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))


def put(*keys, value):
    """An edit that sets one value deep inside a record."""

    def edit(record) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return edit


ESCAPES = ["../../../escape.parquet", "/etc/passwd", "00000-" + "0" * 32 + "-000.parquet/../x", "..", "", "a\0b"]
PLAN_EDITS = {
    "a path out of the source": put("fragments", 0, "path", value="../../etc/passwd"),
    "an absolute path": put("fragments", 0, "path", value="/etc/passwd"),
    "a NUL in a path": put("fragments", 0, "path", value="a\0.parquet"),
    "a shard id that is a path": put("shards", 0, "shard_id", value="../../../../../../x"),
    "a fragment that is not there": put("shards", 0, "fragment", value=3),
    "a negative fragment": put("shards", 0, "fragment", value=-1),
    "another index": put("shards", 0, "index", value=1),
    "rows behind the end": put("shards", 1, "row_stop", value=10**6),
    "negative rows": put("shards", 0, "row_start", value=-4),
    "no rows": put("shards", 0, "row_stop", value=0),
    "rows of another shard": put("shards", 1, "row_start", value=1),
    "a job that is a path": put("job", value="../nightly"),
    "a window that is a path": put("window", value=".."),
    "another format": put("format", value=2),
    "a key nobody knows": put("surprise", value=1),
    "a list for a mapping": put("semantic", value=[]),
    "text for shards": put("shards", value="0"),
    "a digest that is none": put("model_fingerprints", "label", value="zz"),
    "a number beyond all bounds": put("shards", 0, "row_stop", value=10**400),
    "columns that are none": put("source_schema", value="AAAA"),
    "columns that are no text": put("source_schema", value="\u00e4"),
}


@pytest.mark.parametrize("name", PLAN_EDITS)
def test_a_plan_that_was_edited_is_refused_before_any_work(planned, name):
    change(planned.layout().plan, PLAN_EDITS[name])
    before = files_below(planned.root)
    with pytest.raises(ConflictError, match=r"plan\.json: not a valid PlanRecord; found .*restore it or"):
        planned.run()
    assert files_below(planned.root) == before


@pytest.mark.parametrize("name", PLAN_EDITS)
def test_a_claim_that_was_edited_is_refused_before_any_work(planned, name):
    change(planned.sink / "_distilbatch/nightly/claims/000001.json", lambda claim: PLAN_EDITS[name](claim["plan"]))
    with pytest.raises(ConflictError, match=r"claims/000001\.json: not a valid ClaimRecord"):
        planned.run("2026-01-01")


def test_columns_whose_reading_would_run_code_are_refused(planned):
    extension = pa.schema([pa.field("x", pa.binary(), metadata={"ARROW:extension:name": "evil"})])
    change(planned.layout().plan, put("source_schema", value=encode_schema(extension)))
    with pytest.raises(ConflictError, match="expected plain column types, found an extension type"):
        planned.run()


def test_columns_survive_the_record():
    columns = pa.schema(
        [("a", pa.decimal128(10, 2)), ("b", pa.list_(pa.struct([("c", pa.timestamp("us", "UTC"))]))), ("d", pa.null())]
    )
    assert pa.ipc.read_schema(pa.py_buffer(base64.b64decode(encode_schema(columns)))) == columns


@pytest.mark.parametrize("name", ESCAPES)
def test_a_staged_name_that_is_a_path_is_refused(finished, name):
    (finished.layout().done).unlink()
    change(finished.layout().shard(1), put("files", 0, "name", value=name))
    with pytest.raises(ConflictError, match=r"00001\.json: not a valid ShardRecord; found files: .*staged file's name"):
        finished.run()


@pytest.mark.parametrize("name", ESCAPES[:4])
def test_a_published_path_that_leaves_the_sink_is_refused(finished, name):
    change(finished.layout().done, put("files", 0, "path", value=f"data/../../{name}"))
    with pytest.raises(ConflictError, match=r"done\.json: not a valid DoneRecord; found files\.0\.path"):
        finished.run()


def test_partition_values_never_form_a_path(tmp_path, finished):
    value = "../../../x/\0\n%2e"
    path = finished.layout().published((("k/..", value), ("l", None), ("m", "..")), "f.parquet")
    parts = path.relative_to(finished.sink / "data").parts
    assert len(parts) == 4
    assert not {".", ".."} & set(parts)
    assert parts[1] == "l=__HIVE_DEFAULT_PARTITION__"


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (PlanRecord, "plan.json"),
        (ShardRecord, "shards/00000.json"),
        (CommitRecord, "commit.json"),
        (DoneRecord, "done.json"),
        (OwnerRecord, "epoch/000001.json"),
        (PrecisionRecord, "precision.json"),
        (ClaimRecord, "../claims/000001.json"),
    ],
)
def test_any_bytes_are_a_record_or_a_conflict(finished, kind, record):
    data = (finished.layout().control / record).read_bytes()
    parse(kind, data, where=record)
    damaged = [b"", b"{", b"null", b"[]", b"0", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5_000, data[: len(data) // 2]]
    damaged += [data.replace(b":", b": null,", 1), data.replace(b'"', b"", 1), data + b"{}", b"\0" * 100]
    for bad in damaged:
        with pytest.raises(ConflictError, match=rf"not a valid {kind.__name__}; found .*restore it or write to a new"):
            parse(kind, bad, where=record)


@pytest.mark.parametrize("record", ["plan.json", "commit.json", "epoch/000001.json", "../claims/000001.json"])
def test_a_record_without_end_is_refused_unread(planned, record):
    path = planned.layout().control / record
    with path.open("wb") as file:
        file.truncate(1 << 41)
    with pytest.raises(ConflictError, match="too large for a record"):
        planned.run()


def test_the_plan_of_another_window_is_refused(finished):
    finished.write_file("b.parquet", 3)
    shutil.copytree(finished.layout().control, finished.layout("2026-01-02").control)
    expected = r"the plan of another run; expected nightly/2026-01-02; found nightly/once"
    with pytest.raises(ConflictError, match=expected):
        finished.run("2026-01-02")


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (put("precision", value="int4"), "not a valid PrecisionRecord; found precision"),
        (put("precision", value="__import__('os')"), "not a valid PrecisionRecord; found precision"),
        (put("plan_id", value="0" * 64), "chosen for another plan; expected [0-9a-f]{64}; found 0{64}"),
    ],
)
def test_a_precision_that_nobody_chose_for_this_plan_is_refused(planned, edit, expected):
    change(planned.layout().precision, edit)
    with pytest.raises(ConflictError, match=rf"precision\.json: {expected}"):
        planned.run()


def test_a_shard_record_of_another_plan_is_refused(planned):
    other = Workspace(planned.root / "other")
    other.write_file("a.parquet", 7, start=100)
    other.run()
    shutil.copytree(other.layout().shards, planned.layout().shards)
    with pytest.raises(ConflictError, match="the record of shard 0 belongs to another plan"):
        planned.run()
    assert files_below(planned.sink / "data") == []


@pytest.mark.parametrize(
    "name", ["\u00b2" * 5 + ".json", "\u0663.json", "0.json", "000000.json", "x.json", "00000.JSON"]
)
def test_a_name_that_only_looks_like_a_shard_is_none(planned, name):
    planned.layout().shards.mkdir()
    (planned.layout().shards / name).write_text("{}")
    assert RunLedger(STORE, planned.layout()).recorded() == set()
    assert planned.run().num_rows == 7


def test_a_claim_that_is_gone_is_noticed(finished):
    chain = ClaimChain(STORE, finished.job().sink, "nightly")
    for day in ("2026-01-01", "2026-01-02"):
        finished.run(day)
    assert [plan.window for plan in chain.plans()] == ["once", "2026-01-01", "2026-01-02"]
    (finished.sink / "_distilbatch/nightly/claims/000002.json").unlink()
    with pytest.raises(ConflictError, match=r"000002\.json: a claim is gone; .* found 000003\.json after it"):
        chain.plans()
    with pytest.raises(ConflictError, match="a claim is gone"):
        finished.run("2026-01-03")


def test_a_claim_that_leads_nowhere_does_not_hang(planned):
    claims = planned.sink / "_distilbatch/nightly/claims"
    os.symlink(planned.root / "nowhere", claims / "000002.json")
    with pytest.raises(ConflictError, match=r"000002\.json: the name of a claim is taken by something that cannot"):
        planned.run("2026-01-05")


def test_a_claim_of_another_job_is_refused(finished):
    other = Workspace(finished.root / "other")
    other.write_file("a.parquet", 7)
    shutil.copytree(finished.sink / "_distilbatch/nightly/claims", other.sink / "_distilbatch/hourly/claims")
    with pytest.raises(ConflictError, match=r"000001\.json: a claim of another job; expected hourly; found nightly"):
        other.run("2026-01-01", overrides=["job.name=hourly"])


def test_temporary_files_and_notes_beside_the_claims_are_no_claims(finished):
    claims = finished.sink / "_distilbatch/nightly/claims"
    for name in ("notes.txt", "000009.json~", ".000002.json.0123.tmp", "9.json"):
        (claims / name).write_text("?")
    assert finished.run("2026-01-01").num_rows == 0
