"""The systemd units: valid, and in agreement with the exit codes and the config they serve."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from command_lines import parse_command_line

from distilbatch import errors
from distilbatch.config import load_config

JOBS = Path(__file__).parents[2] / "jobs"
SERVICE, TIMER = JOBS / "distilbatch@.service", JOBS / "distilbatch@.timer"

KNOWN = {
    "Unit": {"Description", "Wants", "After", "StartLimitIntervalSec", "StartLimitBurst"},
    "Service": {
        "Type", "User", "StateDirectory", "WorkingDirectory", "EnvironmentFile", "ExecStart", "Restart", "RestartSec",
        "RestartForceExitStatus", "RestartPreventExitStatus", "KillMode", "TimeoutStopSec", "PrivateTmp",
        "NoNewPrivileges",
    },
    "Timer": {"OnCalendar", "Persistent", "RandomizedDelaySec"},
    "Install": {"WantedBy"},
}  # fmt: skip


def read_unit(path: Path) -> dict[str, str]:
    """Directives of a unit; strict: known sections and directives, each once."""
    found: dict[str, str] = {}
    section = ""
    for line in path.read_text("utf-8").splitlines():
        if not line or line.startswith(("#", ";")):
            continue
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
            assert section in KNOWN
        else:
            key, value = line.split("=", 1)
            assert key in KNOWN[section], f"{path.name}: {key} in [{section}]"
            assert key not in found, f"{path.name}: {key} twice"
            found[key] = value
    return found


def codes(root: type[errors.DistilbatchError]) -> set[int]:
    """Exit codes of a branch of the error tree, the general code 1 aside."""
    below = {code for child in root.__subclasses__() for code in codes(child)}
    return (below | {root.exit_code}) - {1}


@pytest.mark.parametrize("path", [SERVICE, TIMER], ids=lambda path: path.suffix)
def test_units_hold_known_directives_once(path):
    assert read_unit(path)


def test_systemd_accepts_the_units(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = read_unit(SERVICE)["ExecStart"].split()[0]
    for path in (SERVICE, TIMER):  # the program is not installed where the unit expects it
        (tmp_path / path.name).write_text(path.read_text("utf-8").replace(program, "/bin/true"))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / SERVICE.name, tmp_path / TIMER.name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    assert "distilbatch" not in checked.stderr


def test_what_passes_by_itself_is_started_again_and_what_needs_a_person_is_not():
    service = read_unit(SERVICE)
    assert {int(code) for code in service["RestartForceExitStatus"].split()} == codes(errors.RetryError)
    assert {int(code) for code in service["RestartPreventExitStatus"].split()} == codes(errors.StopError)
    assert service["Restart"] == "on-failure"  # which covers 1 and a kill
    assert int(service["StartLimitBurst"]) > 0


def test_systemd_waits_longer_than_the_run_needs_to_stop():
    config = load_config(JOBS / "nightly.yaml", environ={})
    assert int(read_unit(SERVICE)["TimeoutStopSec"]) > config.engine.shutdown_grace_s


def test_the_timer_goes_by_the_clock_of_the_config_and_catches_up():
    timer = read_unit(TIMER)
    assert re.fullmatch(r"\*-\*-\* \d\d:\d\d:\d\d (\S+)", timer["OnCalendar"])[1] == (
        load_config(JOBS / "nightly.yaml", environ={}).job.timezone
    )
    assert timer["Persistent"] == "true"


def test_the_command_is_one_the_program_knows():
    command = read_unit(SERVICE)["ExecStart"]
    assert "/etc/distilbatch/%i.yaml" in command
    parse_command_line(command.replace("/opt/distilbatch/bin/", "").replace("%i", "nightly"))
