"""The verb ``bench``: a real benchmark of a tiny job, whose report is complete, and what it refuses."""

from __future__ import annotations

import json
import signal
from xml.etree import ElementTree

import psutil
import pytest
import tiny_job

from distilbatch.bench import models, sides

FIGURES = {
    "about",
    "agreement",
    "documents_per_s",
    "facts",
    "kind",
    "load_s",
    "max_error",
    "name",
    "padding",
    "precision",
    "probe_s",
    "reason",
    "resident_bytes",
    "rounds_s",
    "scope",
    "share_of_limit",
    "share_of_peak",
    "status",
    "tokens_per_s",
}


def test_a_job_is_measured_against_its_forward_and_the_limit_and_the_report_is_complete(place, call):
    ran = call(
        *("bench", "job.yaml", "--documents", "20", "--rounds", "2", "--threads", "1", "--only", "ours-float32"),
        *("--json", "--save", "report.json", "--plot", "report.svg"),
    )
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert report == json.loads((place.folder / "report.json").read_text())
    assert not place.sink.exists()

    assert {"cpu", "flags", "cores", "memory_bytes", "torch", "python", "gpus"} <= report["machine"].keys()
    assert report["settings"]["threads"] == 1
    assert (report["settings"]["rounds"], report["settings"]["rounds_asked"]) == (2, 2)
    assert report["data"] | {"source": ""} == {
        **{"source": "", "documents": 8, "tokens": 40, "mean": 5.0, "median": 5.0, "p90": 5.0, "max": 5},
        "repeats_left_out": 37,  # 45 of 50 rows have text, of 8 kinds
    }
    assert (report["model"]["layers"], report["model"]["dim"], report["model"]["first_token_only"]) == (2, 32, True)

    limit = report["limit"]
    assert limit["floor_s"]["float32"] == pytest.approx(8 / limit["documents_per_s"]["float32"])
    assert all(rate > 0 for rate in limit["gflops"]["float32"].values())

    model, job = report["contestants"]
    assert [(item["name"], item["scope"]) for item in (model, job)] == [
        ("ours-float32", "model"),
        ("ours-float32", "job"),
    ]
    for item in (model, job):
        assert item.keys() == FIGURES
        assert (item["status"], len(item["rounds_s"]), item["padding"]) == ("measured", 2, 0.0)
        assert item["documents_per_s"]["min"] <= item["documents_per_s"]["median"] <= item["documents_per_s"]["max"]
        assert item["share_of_limit"]["median"] > 0
        assert item["resident_bytes"] > 1 << 20
        assert item["max_error"] < 1e-4
        assert item["agreement"] == 1.0
    assert 0 < report["overhead"]["ours-float32"]["median"] < 1
    stages = report["stages"]["ours-float32"]
    assert stages["stages_s"].keys() == {"read", "tokenize", "pack", "forward", "decode", "write"}
    assert stages["forward_s"].keys() == {"linear", "attention", "rest"}
    assert sum(stages["forward_s"].values()) == pytest.approx(stages["stages_s"]["forward"])
    assert all(seconds > 0 for seconds in stages["forward_s"].values())
    assert [report[name] for name in ("ratios", "layout", "models", "targets")] == [[]] * 4  # none for a tiny model
    assert [item["share_of_peak"] for item in (model, job)] == [None, None]

    drawing = ElementTree.fromstring((place.folder / "report.svg").read_text())
    bars = [bar for bar in drawing.iter("{http://www.w3.org/2000/svg}rect") if bar.get("width") != "100%"]
    assert len(bars) == 3  # the limit, the model, the job


def test_a_table_without_a_config_is_raced_over_with_a_real_peer_another_model_and_two_layouts(
    place, call, monkeypatch
):
    pytest.importorskip("transformers")

    def write_tiny(folder, *, seed):
        return f"tiny: {tiny_job.write_checkpoint(folder, seed=seed).name}"

    monkeypatch.setitem(models.WRITERS, "base", write_tiny)
    monkeypatch.setattr(sides, "write_minilm", write_tiny)
    ran = call(
        *("bench", "--data", "source", "--text", "text", "--layout", "--save", "report.json", "--documents", "20"),
        *("--rounds", "1", "--threads", "2", "--only", "ours-float32,minilm-float32,huggingface-float32"),
    )
    assert ran.code == 0, ran.err
    report = json.loads((place.folder / "report.json").read_text())
    measured = {(item["name"], item["scope"]): item for item in report["contestants"]}
    assert {item["status"] for item in measured.values()} == {"measured"}
    peer = measured["huggingface-float32", "model"]
    assert peer["max_error"] < 1e-4
    assert peer["agreement"] == 1.0
    row = next(row for row in report["ratios"] if row["ours"] == "ours-float32")
    assert (row["scope"], row["peer"], row["shown"]) == ("model", "huggingface-float32", False)
    (ours,) = measured["ours-float32", "model"]["rounds_s"]
    assert row["ratio"]["median"] == pytest.approx(peer["rounds_s"][0] / ours, rel=0.2)  # of rounded times

    side = report["sides"]["minilm"]
    assert (side["model"]["name"], side["data"]["documents"]) == ("tiny: minilm", 8)
    (small,) = side["contestants"]
    assert small.keys() == FIGURES
    assert (small["name"], small["scope"], small["status"]) == ("minilm-float32", "model", "measured")
    assert small["max_error"] == 0.0  # from its own reference, float32
    assert report["models"][0]["ratio"]["median"] == pytest.approx(ours / small["rounds_s"][0], rel=0.2)

    assert "minilm-float32 / ours-float32, speed: " in ran.out
    assert "best peer, not shown" in ran.out  # one round shows nothing
    assert "ours-float32: 2 processes of one thread / one process: " in ran.out
    assert "), not shown\n" in ran.out
    assert "ours-float32: the pipeline around the model takes " in ran.out
    assert "tokens each  mean 5, median 5, p90 5, max 5" in " ".join(ran.out.split("\n"))


def test_whole_commands_are_timed_over_the_first_rows_and_shown_as_a_table(place, call):
    ran = call(
        *("bench", "--data", "source", "--model", "model", "--jobs", "5:local", "--rounds", "1"),
        *("--threads", "1", "--device", "cpu"),
        *("--save", "jobs.json"),
    )
    assert ran.code == 0, ran.err
    assert "pipe: first answer after " in ran.out
    report = json.loads((place.folder / "jobs.json").read_text())
    (item,) = report["commands"]
    assert (item["rows"], item["engine"], len(item["rounds_s"])) == (5, "local", 1)
    assert item["seconds"]["min"] <= item["seconds"]["median"] <= item["seconds"]["max"]
    assert item["rows_per_s"]["max"] == pytest.approx(item["rows"] / item["seconds"]["min"])
    assert item["attempt_s"] < item["seconds"]["max"]
    assert item["tokens_computed"] > 0
    assert item["resident_bytes"] > 1 << 20
    assert report["first_answer_s"]["min"] > 0
    assert not place.sink.exists()


def test_a_command_over_more_rows_than_there_are_is_refused(place, call):
    ran = call("bench", "job.yaml", "--jobs", "1000000:local", "--rounds", "1")
    assert ran.code == 6
    assert "a source of at least 1000000 rows" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--jobs", "many", "job.yaml"), "--jobs"),
        (("--jobs", "5", "--plot", "report.svg"), "also --plot"),
        (("--jobs", "5", "--only", "ours", "--layout"), "also --only, --layout"),
        (("--only", "nobody", "job.yaml"), "--only"),
        (("--plot", "report.png"), "a file name that ends in .svg"),
        (("--set", "engine.type=local"), "a config to set keys of"),
        (("job.yaml", "--model", "model"), "models.NAME"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(place, call, arguments, message):
    ran = call("bench", *arguments)
    assert ran.code == 2
    assert message in ran.err


def test_sigterm_ends_the_contestants_and_leaves_nothing_behind(place, start, monkeypatch):
    (place.folder / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(place.folder / "scratch"))
    process = start(
        "bench", "job.yaml", "--documents", "20", "--rounds", "100000", "--only", "ours-float32", "--threads", 1
    )
    for line in process.stderr:
        if "round 1 of" in line:
            break
    contestants = psutil.Process(process.pid).children()  # the limit, and ourselves
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert [child.is_running() for child in contestants] == [False, False]
    assert list((place.folder / "scratch").iterdir()) == []
