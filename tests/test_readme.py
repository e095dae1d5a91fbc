"""The README holds: its commands parse, its two install lines are what CI runs, its tables and links are right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import parse_command_line

from distilbatch import errors

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "jobs").glob("*.md")), *sorted((ROOT / "distilbatch").rglob("*.md"))]
README = (ROOT / "README.md").read_text("utf-8")
MARKED = dict(re.findall(r"^<!-- command: (\w+) -->\n```\w*\n(.*?)\n```$", README, re.DOTALL | re.MULTILINE))
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"out"}


def commands(text: str) -> list[str]:
    """Every ``distilbatch`` command line of a document: in fences, and in code within the text."""
    fenced = "\n".join(re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    indented = "\n".join(re.findall(r"^    (\S.*)$", text, re.MULTILINE))
    lines = f"{fenced}\n{indented}".replace("\\\n", " ").splitlines() + re.findall(r"`([^`\n]+)`", text)
    parts = [part.strip().removeprefix("$ ") for line in lines for part in re.split(r"&&|\||;", line.split(" # ")[0])]
    return sorted({part for part in parts if part.startswith("distilbatch ")})


ALL_COMMANDS = sorted({line for path in DOCUMENTS for line in commands(path.read_text("utf-8"))})


def error_codes(root: type[errors.DistilbatchError]) -> set[int]:
    return {root.exit_code}.union(*(error_codes(child) for child in root.__subclasses__()))


@pytest.mark.parametrize(("name", "extra"), [("run", "demo"), ("test", "test")])
def test_the_two_commands_are_one_line_each_and_install_pinned_versions(name, extra):
    assert "\n" not in MARKED[name]
    assert MARKED[name].startswith(f"pip install -c configs/constraints.txt -e '.[{extra}]' && ")


def run_ci(folder: Path, block: str) -> subprocess.CompletedProcess[str]:
    """Run the script itself beside another README, with environments that are quick to make: without pip."""
    (folder / ".ci").mkdir(exist_ok=True)
    (folder / ".ci" / "run").write_text((ROOT / ".ci" / "run").read_text("utf-8"))
    other = "```bash\nexit 9\n```\n"
    (folder / "README.md").write_text(f"{other}\n<!-- command: test -->\n```bash\n{block}\n```\n\n{other}")
    (folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@" --without-pip\n')
    (folder / "python").chmod(0o755)
    environ = {**os.environ, "PYTHON": str(folder / "python")}
    script = ["bash", folder / ".ci" / "run"]
    return subprocess.run(script, capture_output=True, text=True, check=False, env=environ)


def test_what_ci_runs_is_the_readme_s_test_command_and_nothing_else(tmp_path):
    program = "import os, sys; print(sys.prefix != sys.base_prefix, os.environ['CI'], sys.stdin.read())"
    ran = run_ci(tmp_path, f'python -c "{program}"')
    assert (ran.returncode, ran.stdout.splitlines()[-1:]) == (0, ["True true "]), ran.stderr


def test_ci_fails_as_the_test_command_does_and_without_one(tmp_path):
    assert run_ci(tmp_path, "exit 3").returncode == 3
    missing = run_ci(tmp_path, "")
    assert missing.returncode == 2
    assert "README.md has no fenced block after '<!-- command: test -->'" in missing.stderr


def test_a_script_for_ci_is_executable():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_commands_are_found():
    assert "distilbatch run jobs/nightly.yaml --date yesterday" in ALL_COMMANDS
    assert len(ALL_COMMANDS) >= 10


@pytest.mark.parametrize("line", ALL_COMMANDS)
def test_a_command_that_is_written_down_parses(line):
    parse_command_line(line)


@pytest.mark.parametrize("line", ALL_COMMANDS)
def test_a_config_that_a_command_names_is_there(line):
    assert [word for word in line.split() if re.match(r"(configs|jobs)/", word) and not (ROOT / word).exists()] == []


def test_the_table_of_exit_codes_is_the_one_of_the_errors():
    table = README.split("## Exit codes", 1)[1].split("\n## ", 1)[0]
    stated = {int(code) for cell in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for code in cell.split(",")}
    assert stated - {0, 130, 143} == error_codes(errors.DistilbatchError)
    assert {0, 130, 143} <= stated


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_linked_and_named_files_exist(path):
    text = path.read_text("utf-8")
    links = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in links if target and not (path.parent / target).exists()] == []
    named = [word for word in re.findall(r"`([\w.@/-]+/[\w.@-]*)`", text) if word.split("/")[0] in FOLDERS]
    assert [word for word in named if not (ROOT / word).exists()] == []


def test_every_pin_is_exact_and_every_requirement_is_pinned():
    lines = (ROOT / "configs" / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    exact = r'([a-z0-9-]+)==[\w.]+(; python_version (?:>=|<) "3\.11")?'
    names = {match[1] for line in pins if (match := re.fullmatch(exact, line))}
    assert [line for line in pins if re.fullmatch(exact, line) is None] == []
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    wanted = {
        name.lower().replace("_", "-") for name in re.findall(r'^  "([A-Za-z0-9_-]+)[>=]=', project, re.MULTILINE)
    }
    assert "torch" in wanted
    assert wanted - names == set()
