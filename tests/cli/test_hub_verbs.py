"""Hub ids on the command line: the environment says which hub, an id stays usable offline, a moved branch is exit 4."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest
import tiny_job
from hub_server import Hub

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture
def program(server, start, place, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """Run the program in a process of its own that knows the hub from its environment; code, output, complaints."""
    for name in os.environ.keys() - ENVIRONMENT.keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(place.folder / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")

    def program(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
        process = start(*arguments, stdin=subprocess.PIPE)
        out, err = process.communicate(stdin, timeout=120)
        return process.returncode, out, err

    return program


def test_a_run_by_hub_id_goes_on_offline_and_stops_when_the_branch_has_moved(
    program, server, place, model, monkeypatch
):
    repo = server.repo("org/tiny")
    old = repo.commit_folder(model)
    by_id = ("-s", "annotate.0.model=org/tiny")
    assert program("run", place.config, *by_id)[0] == 0
    server.paths()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = program("run", place.config, *by_id, "-s", f"sink.path={place.folder / 'again'}")
    assert (again[0], server.paths()) == (0, [])
    monkeypatch.delenv("HF_HUB_OFFLINE")
    new = repo.commit_folder(tiny_job.write_checkpoint(place.folder / "newer", seed=2))
    code, _, complaints = program("run", place.config, *by_id)
    assert code == 4
    assert f"(org/tiny@{old}), now" in complaints
    assert f"(org/tiny@{new})" in complaints
    code, out, _ = program("run", place.config, *by_id, "-s", f"annotate.0.revision={old}")
    assert code == 0
    assert "already committed" in out


def test_pipe_takes_a_hub_id_and_a_revision(program, server, model, monkeypatch):
    server.repo("org/tiny").commit_folder(model, "v1")
    server.repo("org/tiny").commit({"config.json": b"{}"})
    answers = [program("pipe", "--model", model, "--device", "cpu", stdin="red fish\n")]
    by_id = ("pipe", "--model", "org/tiny", "--revision", "v1", "--device", "cpu")
    answers.append(program(*by_id, stdin="red fish\n"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    answers.append(program(*by_id, stdin="red fish\n"))
    assert [(code, json.loads(out)) for code, out, _ in answers] == [(0, json.loads(answers[0][1]))] * 3
    code, _, complaints = program("pipe", "--model", "org/tiny", "--revision", "v2", stdin="red\n")
    assert code == 6
    assert "error: hub model org/tiny: revision v2 cannot be fetched" in complaints


def test_convert_takes_a_hub_id(call, hub, model, place):
    hub.repo("org/tiny").commit_folder(model)
    ran = call("convert", "org/tiny", place.folder / "made", "--revision", "v9")
    assert ran.code == 6
    assert "no such revision" in ran.err
    ran = call("convert", "org/tiny", place.folder / "made")  # which is no BERT: it was fetched, and then refused
    assert ran.code == 6
    assert "/snapshots/" in ran.err
