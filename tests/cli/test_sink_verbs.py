"""``status`` and ``verify`` on a sink's folder and on the config that names it."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def finished(call, place):
    assert call("run", place.config).code == 0
    return place


@pytest.mark.parametrize("target", ["out", "job.yaml"])
def test_status_tells_how_far_each_run_is(call, finished, target):
    ran = call("status", target)
    assert ran.code == 0
    words = ran.out.splitlines()[1].split()
    assert words[:8] == ["tiny/once", "published", "3", "of", "3", "50", "of", "50"]
    [run] = json.loads(call("status", target, "--json").out)
    assert (run["run_key"], run["state"]) == ("tiny/once", "published")


@pytest.mark.parametrize("target", ["out", "job.yaml"])
def test_verify_is_content_with_a_whole_sink(call, finished, target):
    ran = call("verify", target)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[-1] == "ok: 50 rows in 3 files, each planned row once"
    assert json.loads(call("verify", target, "--json").out)["ok"] is True


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_verify_exits_3_and_names_what_is_wrong(call, finished, options):
    lost = sorted(finished.sink.glob("data/*.parquet"))[0]
    lost.unlink()
    ran = call("verify", finished.sink, *options)
    assert ran.code == 3
    assert ran.err.splitlines()[0] == f"error: {finished.sink} is not whole"
    assert f"       data/{lost.name}" in ran.err
    if options:
        assert json.loads(ran.out)["ok"] is False


def test_a_sink_whose_path_holds_the_date_is_found_by_date(call, place):
    place.write_config(sink={"path": "out/{{ date }}"})
    assert call("run", place.config, "--date", "2026-03-09").code == 0
    assert call("verify", place.config, "--date", "2026-03-09").code == 0
    assert call("status", place.config, "--date", "2026-03-08").code == 3
    missing = call("verify", place.config)
    assert missing.code == 2
    assert "remedy:   run with --date yesterday" in missing.err


def test_an_override_moves_the_sink(call, finished):
    assert call("status", finished.config, "-s", "sink.path=elsewhere").code == 3
