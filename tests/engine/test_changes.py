"""Another source is told from the planned one that is only named otherwise; a sink may not feed its own source."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fakes import FakeExecutor, KilledError, Workspace

from distilbatch.engine.driver import resolve_run
from distilbatch.engine.forecast import plan
from distilbatch.errors import ConfigError, ConflictError


def crash(workspace: Workspace) -> None:
    def failpoint(reached: str) -> None:
        if reached == "stage 2":
            raise KilledError

    with pytest.raises(KilledError):
        workspace.driver(workspace.job(), make_executor=lambda job, spec: FakeExecutor(spec, failpoint=failpoint)).run()


# --- Which source ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [True, False])
def test_another_source_is_refused_after_the_end_and_before(workspace, finished):
    if finished:
        workspace.run()
    else:
        crash(workspace)
    other = Workspace(workspace.root / "second")
    other.write_file("a.parquet", 7, start=500)
    for path in (str(other.source), str(workspace.root / "nowhere"), str(workspace.source / "sub")):
        with pytest.raises(ConflictError, match=rf"source\.path: planned '.*/in', now '{path}'; restore them"):
            workspace.run(overrides=[f"source.path={path}"])
    with pytest.raises(ConflictError, match=r"source\.path: planned"):
        plan(workspace.config(), overrides=[f"source.path={other.source}"], forecast=False)
    assert workspace.run().num_rows == 12
    assert workspace.places() == workspace.source_places()


def test_another_glob_is_refused(workspace):
    workspace.run()
    with pytest.raises(ConflictError, match=r"source\.glob: planned '\*\*/\*\.parquet', now 'sub/\*\.parquet'"):
        workspace.run(overrides=["source.glob=sub/*.parquet"])


def test_two_configs_with_the_default_name_on_one_sink_are_told_apart(workspace):
    other = Workspace(workspace.root / "second")
    other.write_file("c.parquet", 4)
    configs = [{**one.config(), "job": {}} for one in (workspace, other)]
    configs[1]["sink"] = configs[0]["sink"]
    configs[1]["annotate"] = configs[0]["annotate"]
    assert workspace.driver(resolve_run(configs[0])).run().num_rows == 12
    with pytest.raises(ConflictError, match=r"job/once was planned with other settings; .*choose another job\.name"):
        workspace.driver(resolve_run(configs[1])).run()


@pytest.mark.parametrize("finished", [True, False])
def test_the_same_source_under_another_name_is_no_other_source(workspace, monkeypatch, finished):
    if finished:
        workspace.run()
    else:
        crash(workspace)
    (workspace.root / "link").symlink_to(workspace.source)
    shutil.copytree(workspace.source, workspace.root / "copy")
    monkeypatch.chdir(workspace.root)
    for path in ("in", "link", f"{workspace.source}/", "sub/../in", "copy"):
        assert workspace.run(overrides=[f"source.path={path}"]).num_rows == 12
    workspace.source.rename(workspace.root / "moved")
    assert workspace.run(overrides=["source.path=moved"]).num_rows == 12
    (workspace.root / "moved" / "a.parquet").unlink()  # it is labelled, and was cleared away
    assert workspace.run(overrides=["source.path=moved"]).num_rows == 12


def test_a_plan_of_an_older_version_without_a_glob_is_resumed(workspace):
    crash(workspace)
    control = workspace.layout().control
    for path in (control / "plan.json", control.parent / "claims" / "000001.json"):
        record = json.loads(path.read_text())
        record.get("plan", record).pop("source_glob")
        path.write_text(json.dumps(record))
    report = workspace.run(overrides=["source.glob='*/*.parquet'"])
    assert (report.num_rows, report.rows_this_attempt) == (12, 5)


def test_an_unfinished_night_is_finished_with_the_glob_of_its_plan(workspace):
    job = workspace.job("2026-01-01")
    with pytest.raises(KilledError):
        workspace.driver(job, make_executor=lambda job, spec: FakeExecutor(spec, failpoint=_die)).run()
    workspace.write_file("new/c.parquet", 3)
    report = workspace.run("2026-01-02", overrides=["source.glob=new/*.parquet"])
    assert (report.num_rows, [item.num_rows for item in report.earlier]) == (3, [12])


def _die(reached: str) -> None:
    raise KilledError


# --- A sink that would feed its own source ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "sink", "more"),
    [
        ("in", "in", {}),
        ("in", "in/out", {}),
        (".", "out", {}),
        ("in", "link/out", {}),
        ("out/data", "out", {}),
        ("out/data/id=1", "out", {}),
        ("in", "in/out", {"glob": "out/data/*/*.parquet", "partition_by": ["id"]}),
    ],
)
def test_a_sink_inside_the_source_is_refused(workspace, monkeypatch, source, sink, more):
    monkeypatch.chdir(workspace.root)
    (workspace.root / "link").symlink_to("in")
    config = workspace.config()
    config["source"] = {"path": source, "glob": more.get("glob", "**/*.parquet")}
    config["sink"] = {"path": sink, "passthrough": ["id"], "partition_by": more.get("partition_by", [])}
    with pytest.raises(ConfigError, match=r"sink\.path: the source would hold what this job publishes, .*beside"):
        resolve_run(config)


@pytest.mark.parametrize(
    ("source", "sink", "more"),
    [
        ("in", "out", {}),
        ("in", "in/_out", {}),
        ("in", "in/out", {"glob": "*.parquet"}),
        ("in", "in/out", {"glob": "out/data/*.parquet", "partition_by": ["id"]}),
        ("in", ".", {}),
        ("in/a.parquet", "in", {}),
        ("in", "inside", {}),
    ],
)
def test_a_sink_whose_output_the_source_does_not_list_is_fine(workspace, monkeypatch, source, sink, more):
    monkeypatch.chdir(workspace.root)
    config = workspace.config()
    config["source"] = {"path": source, "glob": more.get("glob", "**/*.parquet")}
    config["sink"] = {"path": sink, "passthrough": ["id"], "partition_by": more.get("partition_by", [])}
    labelled = workspace.driver(resolve_run(config, day="2026-01-01"))
    if Path(source).is_dir() and not more.get("partition_by"):  # the fake executor cannot do the others
        assert labelled.run().num_rows > 0
        assert workspace.driver(resolve_run(config, day="2026-01-02")).run().num_rows == 0
