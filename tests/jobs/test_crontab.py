"""``jobs/crontab``: one well-formed line, whose command does what the comment beside it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from command_lines import parse_command_line

from distilbatch.config import load_config

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "jobs" / "crontab").read_text("utf-8").splitlines()
SETTINGS = dict(line.split("=", 1) for line in LINES if re.match(r"[A-Z_]+=", line))
ENTRIES = [line for line in LINES if line and not line.startswith("#") and line.split("=")[0] not in SETTINGS]
BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def test_there_is_one_entry_with_five_valid_fields():
    assert len(ENTRIES) == 1
    fields = ENTRIES[0].split(None, 5)[:5]
    for field, (low, high) in zip(fields, BOUNDS, strict=True):
        assert field == "*" or low <= int(field) <= high


def test_every_percent_sign_is_escaped_because_cron_cuts_the_line_at_a_bare_one():
    assert re.findall(r"(?<!\\)%", ENTRIES[0]) == []
    assert r"\%" in ENTRIES[0]


def test_its_clock_is_the_one_of_the_config():
    config = load_config(ROOT / "jobs" / "nightly.yaml", environ={})
    assert SETTINGS["TZ"] == SETTINGS["CRON_TZ"] == config.job.timezone


def test_the_command_is_one_the_program_knows():
    match = re.search(r"(distilbatch run .*?) >>", ENTRIES[0])
    assert match is not None
    parse_command_line(match[1])


def command_in(folder: Path) -> str:
    # What cron hands to the shell, in a folder of ours.
    return ENTRIES[0].split(None, 5)[5].replace(r"\%", "%").replace("/srv/distilbatch", str(folder))


def run_entry(folder: Path, *, exit_code: int) -> str:
    program = folder / "distilbatch"
    program.write_text(f'#!/bin/sh\necho "ran $@"\nexit {exit_code}\n')
    program.chmod(0o755)
    environ = {**SETTINGS, "PATH": f"{folder}:/usr/bin:/bin"}
    ran = subprocess.run(
        [SETTINGS["SHELL"], "-c", command_in(folder)], capture_output=True, text=True, check=False, env=environ
    )
    assert ran.stderr == ""
    return ran.stdout


def test_a_good_night_mails_nothing_and_keeps_a_dated_log(tmp_path):
    assert run_entry(tmp_path, exit_code=0) == ""
    (log,) = (tmp_path / "log").iterdir()
    assert re.fullmatch(r"nightly-\d{4}-\d\d-\d\d\.log", log.name)
    assert log.read_text() == "ran run jobs/nightly.yaml --date yesterday\n"


@pytest.mark.parametrize("exit_code", [1, 3, 5])
def test_a_failed_night_mails_its_exit_code(tmp_path, exit_code):
    assert f"exit code {exit_code}," in run_entry(tmp_path, exit_code=exit_code)


def test_two_nights_never_overlap_and_the_second_says_try_later(tmp_path):
    holder = subprocess.Popen(
        ["flock", tmp_path / ".nightly.lock", "sh", "-c", "echo held; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        assert "exit code 75," in run_entry(tmp_path, exit_code=0)
    finally:
        holder.communicate()
