"""``run`` and ``plan``: what they print, write and exit with."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
import tiny_job

from distilbatch.cli.tables import label_table


def test_a_run_labels_the_table_and_says_what_came_out(call, place):
    ran = call("run", place.config)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "tiny/once: committed"
    assert any(line.split() == ["rows", "50", "(ok", "45,", "null", "5)"] for line in lines)
    assert any(line.split()[:1] == ["yes"] or line.split()[:1] == ["no"] for line in lines)
    assert f"data: {place.sink}/data" in lines
    assert lines[-1] == f"next: distilbatch verify {place.sink}"
    assert pq.read_table(place.sink / "data").num_rows == 50
    assert "tiny/once: 50 rows in 3 shards" in ran.err


def test_results_for_programs_are_json_and_alone_on_standard_output(call, place):
    report = json.loads(call("run", place.config, "--json").out)
    assert (report["run_key"], report["state"], report["num_rows"]) == ("tiny/once", "committed", 50)
    assert sum(report["label_counts"]["answer"].values()) == 45


def test_the_same_command_again_does_nothing(call, place):
    call("run", place.config)
    before = tiny_job.tree(place.sink)
    again = call("run", place.config)
    assert (again.code, again.out.splitlines()[0]) == (0, "tiny/once: already committed")
    assert tiny_job.tree(place.sink) == before


def test_a_date_a_limit_and_overrides_reach_the_run(call, place):
    ran = call(
        "run",
        place.config,
        "--date",
        "2026-03-09",
        "--limit",
        "30",
        "-s",
        "job.name=other",
        "--set",
        "sink.path=away",
        "--json",
    )
    report = json.loads(ran.out)
    assert (report["run_key"], report["num_rows"]) == ("other/2026-03-09-limit30", 30)
    assert report["data"] == "away/data"


def test_later_files_win_and_standard_input_is_one(start, place):
    (place.folder / "site.yaml").write_text("job: {name: site}")
    process = start("config", "show", place.config, "-", "site.yaml", stdin=-1)
    out, _ = process.communicate("job: {name: piped, timezone: Asia/Tokyo}")
    assert process.returncode == 0
    assert "name: site" in out
    assert "timezone: Asia/Tokyo" in out


@pytest.mark.parametrize(("option", "code"), [([], 0), (["--exit-no-data", "99"], 99)])
def test_no_new_input_can_have_an_exit_code_of_its_own(call, place, option, code):
    assert call("run", place.config, "--date", "2026-03-09", *option).code == 0  # 50 rows
    assert call("run", place.config, "--date", "2026-03-09", *option).code == 0  # done before
    empty = call("run", place.config, "--date", "2026-03-10", *option)
    assert empty.code == code
    assert "no new input: there was nothing to label" in empty.out


def test_an_earlier_window_that_is_finished_first_is_named(call, place):
    call("run", place.config, "--date", "2026-03-09")
    (place.sink / "_distilbatch" / "tiny" / "2026-03-09" / "done.json").unlink()
    ran = call("run", place.config, "--date", "2026-03-10", "--exit-no-data", "99")
    assert "finished first: tiny/2026-03-09, 50 rows" in ran.out


def test_only_the_most_frequent_labels_are_listed():
    counts = {f"label{n:02}": 100 - n for n in range(13)}
    table = label_table("topic", counts)
    assert [str(cell) for cell in table.columns[0].cells][-2:] == ["label09", "(3 more)"]
    assert list(table.columns[1].cells)[-1] == f"{100 - 10 + 100 - 11 + 100 - 12}"


def test_a_plan_tells_what_a_run_would_do_and_writes_nothing(call, place):
    before = tiny_job.tree(place.folder)
    ran = call("plan", place.config)
    assert ran.code == 0
    words = [line.split() for line in ran.out.splitlines()]
    assert ["rows", "50"] in words
    assert ["shards", "3"] in words
    assert any(line[:2] == ["time,", "about"] for line in words)
    assert words[-1] == ["Nothing", "was", "written."]
    assert tiny_job.tree(place.folder) == before


def test_a_plan_for_programs_without_a_forecast(call, place):
    report = json.loads(call("plan", place.config, "--json", "--no-forecast", "--limit", "30").out)
    assert (report["run_key"], report["rows"], report["shards"]) == ("tiny/once-limit30", 30, 2)
    assert report["estimate"]["seconds"] is None


def test_a_plan_of_a_finished_run_has_nothing_left(call, place):
    call("run", place.config)
    assert call("plan", place.config).out.splitlines()[0] == "tiny/once: published"
