"""Where a report comes from: the command as typed, the time in UTC, and the commit of the package, if it has one."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import distilbatch
from distilbatch.bench import provenance
from distilbatch.bench.provenance import commit_of, describe_provenance

FILES = ("package/__init__.py", "package/deep/code.py", "notes.txt")


def git(folder, *arguments):
    done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit_all(folder):
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=A", "-c", "user.email=a@b.example", "commit", "--quiet", "--message", "x")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a package, with nobody's settings."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return make_repository(tmp_path / "repository")


def make_repository(folder):
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {folder.name}/{name}\n")
    git(folder, "init", "--quiet")
    commit_all(folder)
    return folder


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["bench", "job.yaml", "--rounds", "2"], "distilbatch bench job.yaml --rounds 2"),
        (["bench", "--data", "my docs", "-s", "a=$b"], "distilbatch bench --data 'my docs' -s 'a=$b'"),
    ],
)
def test_the_command_is_one_to_paste_into_a_shell(words, command):
    assert describe_provenance(words)["command"] == command
    assert shlex.split(command) == ["distilbatch", *words]


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone of this process cannot be set")
def test_the_date_is_that_of_now_in_utc_wherever_the_machine_is(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ-7")
        time.tzset()
        found = describe_provenance([])["date"]
    time.tzset()
    assert len(found) == len("2026-01-31T12:00:00+00:00")
    assert found.endswith("+00:00")
    assert abs(datetime.now(timezone.utc) - datetime.fromisoformat(found)) < timedelta(minutes=5)


def test_version_and_commit_are_those_of_this_package():
    found = describe_provenance([])
    assert found["version"] == distilbatch.__version__
    assert found["commit"] == commit_of(Path(distilbatch.__file__).parent)


def test_a_package_has_the_commit_it_is_checked_out_at(repository):
    first = commit_of(repository / "package")
    assert first == git(repository, "rev-parse", "HEAD")
    (repository / "package" / "more.py").write_text("")
    commit_all(repository)
    assert commit_of(repository / "package") == git(repository, "rev-parse", "HEAD") != first


@pytest.mark.parametrize("how", ["written", "staged", "deleted"])
def test_changes_of_tracked_files_of_the_package_are_marked(repository, how):
    code = repository / "package" / "deep" / "code.py"
    code.unlink() if how == "deleted" else code.write_text("changed = True\n")
    if how == "staged":
        git(repository, "add", "--all")
    assert commit_of(repository / "package") == git(repository, "rev-parse", "HEAD") + "+changes"


def test_other_changes_are_not_and_the_index_is_left_alone(repository):
    (repository / "notes.txt").write_text("changed\n")
    (repository / "package" / "untracked.py").write_text("")
    os.utime(repository / "package" / "__init__.py", (0, 0))  # as a copy has it: the index does not know this time
    index = (repository / ".git" / "index").read_bytes()
    assert commit_of(repository / "package") == git(repository, "rev-parse", "HEAD")
    assert (repository / ".git" / "index").read_bytes() == index


def test_an_installed_package_has_no_commit_even_inside_a_repository(repository, tmp_path):
    for installed in (repository / "venv" / "package", tmp_path / "elsewhere" / "package"):
        shutil.copytree(repository / "package", installed)
        assert commit_of(installed) is None
    assert commit_of(tmp_path / "missing") is None


def test_a_package_that_was_never_committed_has_none(repository):
    shutil.rmtree(repository / ".git")
    git(repository, "init", "--quiet")
    git(repository, "add", "--all")
    assert commit_of(repository / "package") is None


def test_in_a_hook_of_another_repository_it_is_still_its_own(repository, tmp_path, monkeypatch):
    wanted = git(repository, "rev-parse", "HEAD")
    other = make_repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert commit_of(repository / "package") == wanted


@pytest.mark.parametrize("script", [None, "exec sleep 60", "exit 0"], ids=["missing", "hangs", "silent"])
def test_without_a_git_that_answers_there_is_none(repository, tmp_path, monkeypatch, script):
    (programs := tmp_path / "bin").mkdir()
    if script is not None:
        (programs / "git").write_text(f"#!/bin/sh\nPATH={os.defpath}\n{script}\n")
        (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(provenance, "TIMEOUT_S", 0.5)
    start = time.perf_counter()
    assert commit_of(repository / "package") is None
    assert time.perf_counter() - start < 30
