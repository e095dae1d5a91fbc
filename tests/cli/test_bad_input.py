"""What a user gets wrong: one clear message, the documented exit code, no traceback and nothing published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class Mistake:
    """A mistake.

    Args:
        name: For the test's name.
        make: Makes it in the working folder.
        code: The documented exit code.
        message: What the message has to say.
        overrides: Settings for the run.
    """

    name: str
    make: Callable[[Path], object]
    code: int
    message: tuple[str, ...]
    overrides: tuple[str, ...] = field(default=())


def nothing(folder: Path) -> None:
    pass


def own_model(folder: Path) -> Path:
    """A copy of the model that may be changed."""
    copy = shutil.copytree(folder / "model", folder / "own")
    (folder / "model").unlink()
    return copy.rename(folder / "model")


def change_weights(folder: Path, change: Callable[[dict], object]) -> None:
    path = own_model(folder) / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def change_config(folder: Path, **values: object) -> None:
    path = own_model(folder) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def write_column(folder: Path, name: str, values: list[object]) -> None:
    count = range(len(values))
    columns = {"id": list(count), "group": ["even" for _ in count], name: values}
    pq.write_table(pa.table(columns), folder / "source" / "a.parquet")


def truncate(folder: Path) -> None:
    path = folder / "source" / "a.parquet"
    path.write_bytes(path.read_bytes()[:-200])


NAN = float("nan")
MISTAKES = [
    Mistake("missing config", lambda f: (f / "job.yaml").unlink(), 2, ("job.yaml: no such file",)),
    Mistake("unknown key", nothing, 2, ("-s sink.fromat: unknown key", "one of type, path"), ("sink.fromat=x",)),
    Mistake("missing source", nothing, 3, ("nowhere",), ("source.path=nowhere",)),
    Mistake("empty folder", lambda f: (f / "empty").mkdir(), 3, ("empty",), ("source.path=empty",)),
    Mistake("not Parquet", lambda f: (f / "source" / "a.parquet").write_text("id,text\n1,red\n"), 3, ("a.parquet",)),
    Mistake("truncated file", truncate, 3, ("a.parquet",)),
    Mistake("no text column", lambda f: write_column(f, "txt", ["red"]), 3, ("'text'", "txt")),
    Mistake("text column of numbers", lambda f: write_column(f, "text", [1, 2]), 3, ("'text'", "int64")),
    Mistake("missing model", nothing, 6, ("'nope'", "found:    no such folder"), ("annotate.0.model=nope",)),
    Mistake("not DistilBERT", lambda f: change_config(f, model_type="bert"), 6, ("distilbert", "bert")),
    Mistake("missing tensor", lambda f: change_weights(f, lambda t: t.pop("classifier.bias")), 6, ("classifier.bias",)),
    Mistake("NaN weights", lambda f: change_weights(f, lambda t: t["classifier.bias"].fill_(NAN)), 6, ("bias",)),
    Mistake("unwritable output", lambda f: (f / "out").write_text("a file"), 6, ("out",)),
    Mistake("no pipeline file", nothing, 2, ("nope.py",), ("annotate=[]", "pipeline=nope.py")),
    Mistake("a pipeline that fails", lambda f: (f / "p.py").write_text("1 / 0"), 2,
            ("p.py:1", "ZeroDivisionError"), ("annotate=[]", "pipeline=p.py")),
    Mistake("a date template without a date", nothing, 2, ("run with --date",), ("sink.path='{{ date }}'",)),
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name.replace(" ", "-"))
def test_a_mistake_gets_one_message_and_its_exit_code(call, place, mistake):
    mistake.make(place.folder)
    options = [word for override in mistake.overrides for word in ("-s", override)]
    ran = call("run", "job.yaml", *options)
    assert ran.code == mistake.code
    assert ran.out == ""
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    for words in mistake.message:
        assert words in ran.err
    assert "Traceback" not in ran.err
    assert "internal error" not in ran.err
    assert not list(place.sink.glob("data/**/*.parquet"))


def test_debug_shows_the_traceback_and_keeps_the_exit_code(call, place):
    ran = call("run", place.config, "-s", "annotate.0.model=nope", "--debug")
    assert ran.code == 6
    assert "Traceback (most recent call last)" in ran.err
    assert "error: annotation 'answer': model 'nope'" in ran.err


def test_a_message_says_what_expected_found_and_remedy_on_lines_of_their_own(call, place):
    assert call("run", place.config, "-s", "annotate.0.model=nope").err.splitlines() == [
        "error: annotation 'answer': model 'nope'",
        "  expected: a checkpoint folder",
        "  found:    no such folder",
        "  remedy:   give the folder, or make one with distilbatch convert or distilbatch demo; a hub id is org/name",
    ]


def test_other_settings_for_a_planned_run_are_a_conflict(call, place):
    assert call("run", place.config).code == 0
    ran = call("run", place.config, "-s", "annotate.0.top_k=2")
    assert ran.code == 4
    assert "annotate.0.top_k: planned None, now 2" in ran.err


def test_a_plan_refuses_what_a_run_would_refuse(call, place):
    assert call("plan", place.config, "-s", "source.path=nowhere").code == 3
    assert call("plan", place.config, "-s", "annotate.0.model=nope").code == 6


@pytest.mark.parametrize("verb", ["status", "verify"])
@pytest.mark.parametrize(("target", "code"), [("nowhere", 3), ("nowhere.yaml", 2), ("source", 3)])
def test_what_is_no_sink_cannot_be_looked_at(call, place, verb, target, code):
    ran = call(verb, target)
    assert ran.code == code
    assert ran.err.startswith(f"error: {target}")


def test_a_file_name_cannot_drive_the_terminal(call, place):
    ran = call("status", "evil\x1b[2J\x07")
    assert "\x1b" not in ran.err
    assert "\x07" not in ran.err
    assert "evil" in ran.err


LONG = "x" * 300


@pytest.mark.parametrize("name", [LONG, f"there/{LONG}", f"{LONG}/below", "ab/" * 1366])
@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "job.yaml", "-s", "source.path=NAME"),
        ("run", "job.yaml", "-s", "sink.path=NAME"),
        ("run", "job.yaml", "-s", "annotate.0.model=NAME"),
        ("run", "NAME"),
        ("plan", "job.yaml", "-s", "source.path=NAME"),
        ("status", "NAME"),
        ("verify", "NAME"),
        ("convert", "NAME", "made"),
        ("convert", "model", "NAME"),
        ("pipe", "--model", "NAME"),
        ("demo", "--out", "NAME"),
        ("bench", "--data", "NAME"),
    ],
    ids=" ".join,
)
def test_a_name_that_no_file_system_takes_is_a_mistake_like_any_other(place, call, name, arguments):
    (place.folder / "there").mkdir()
    ran = call(*(word.replace("NAME", name) for word in arguments))
    assert ran.code == 2
    err = " ".join(ran.err.replace("\u2502", " ").split())  # the frame of a usage error
    assert "no file or folder has such a path" in err
    assert "bytes, and file systems take" in err
    assert "internal error" not in ran.err


@pytest.mark.parametrize(
    ("setting", "code", "message"),
    [
        ("source.path=loop", 3, "found:    Too many levels of symbolic links"),
        ("source.path=loop/x", 3, "found:    Too many levels of symbolic links"),
        ("annotate.0.model=./loop", 6, "found:    Too many levels of symbolic links"),
        ("sink.path=loop", 6, "Too many levels of symbolic links"),
    ],
)
def test_links_in_a_circle_are_a_mistake_like_any_other(place, call, setting, code, message):
    (place.folder / "loop").symlink_to("loop")
    ran = call("run", "job.yaml", "-s", "engine.type=local", "-s", setting)
    assert (ran.code, message in ran.err) == (code, True), ran.err
