"""Output: results on one stream, the rest on the other, and readers that go away."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from datetime import datetime

import pytest

from distilbatch.cli.console import forget_unusable_width, printable
from distilbatch.cli.tables import command, duration, size
from distilbatch.errors import ConfigError, DistilbatchError


def test_control_characters_are_not_printed():
    assert printable("a\x1b[31mb\x07c\u202ed\ne") == "a\ufffd[31mb\ufffdc\ufffdd\ne"
    assert printable("naïve 日本 🙂") == "naïve 日本 🙂"


def test_a_reader_that_goes_away_changes_nothing(start, call, place):
    assert call("run", place.config).code == 0
    shutil.copytree(place.sink, place.folder / "out2")
    next((place.folder / "out2" / "data").iterdir()).unlink()
    for arguments, code in ((("verify", "out"), 0), (("verify", "out2"), 3), (("config", "schema"), 0)):
        reader, writer = os.pipe()
        os.close(reader)
        process = start(*arguments, stdout=writer)
        os.close(writer)
        _, err = process.communicate(timeout=60)
        assert process.returncode == code, arguments
        assert "BrokenPipe" not in err


def test_a_full_disk_under_standard_output_is_one_message(start, call, place):
    call("run", place.config)
    with open("/dev/full", "w") as full:
        process = start("status", "out", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 7
    assert err.startswith("error: standard output cannot be written\n")


def test_a_label_that_standard_output_cannot_show_does_not_end_a_run(start, place):
    path = place.folder / "model" / "config.json"
    own = place.folder / "own"
    own.mkdir()
    for name in path.parent.iterdir():
        (own / name.name).write_bytes(name.read_bytes())
    labels = {"id2label": {"0": "日本", "1": "\x1b[31mred"}, "label2id": {"日本": 0, "\x1b[31mred": 1}}
    (own / "config.json").write_text(json.dumps({**json.loads(path.read_text()), **labels}))
    os.environ["PYTHONIOENCODING"] = "ascii"
    try:
        process = start("run", "job.yaml", "-s", "annotate.0.model=own")
    finally:
        del os.environ["PYTHONIOENCODING"]
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "\\u65e5\\u672c" in out
    assert "\x1b" not in out


def test_a_bug_is_an_internal_error_without_a_traceback(call, place, monkeypatch):
    import distilbatch.engine.forecast

    def broken(*arguments, **options):
        raise KeyError("oops")

    monkeypatch.setattr(distilbatch.engine.forecast, "plan", broken)
    ran = call("plan", place.config)
    assert (ran.code, ran.out, ran.err) == (1, "", "internal error: KeyError: 'oops'; run with --debug\n")
    assert "Traceback" in call("plan", place.config, "--debug").err


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), ConfigError("one\ntwo", expected="x", remedy="y")])
def test_what_a_verb_raises_decides_the_exit_code(call, place, monkeypatch, raised):
    import distilbatch.engine.forecast

    def fails(*arguments, **options):
        raise raised

    monkeypatch.setattr(distilbatch.engine.forecast, "plan", fails)
    ran = call("plan", place.config)
    if isinstance(raised, DistilbatchError):
        assert (ran.code, ran.err) == (2, "error: one\n       two\n  expected: x\n  remedy:   y\n")
    else:
        assert (ran.code, ran.err) == (130, "")


def test_credentials_reach_neither_messages_nor_tracebacks_nor_logs(call, place, monkeypatch):
    import distilbatch.engine.forecast

    def fails(*arguments, **options):
        logging.getLogger("distilbatch").warning("trying https://user:s3cret@h again")
        raise KeyError("https://user:s3cret@h/x")

    monkeypatch.setattr(distilbatch.engine.forecast, "plan", fails)
    for options in ((), ("--debug",)):
        err = call("plan", place.config, *options).err
        assert "trying https://***@h again" in err
        assert "internal error: KeyError: 'https://***@h/x'" in err
        assert "s3cret" not in err


@pytest.mark.parametrize("columns", ["0", "-5", "3", "many", "", "²", "9" * 5000])
def test_a_width_that_is_none_is_forgotten(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    forget_unusable_width()
    assert "COLUMNS" not in os.environ
    monkeypatch.setenv("COLUMNS", "100")
    forget_unusable_width()
    assert os.environ["COLUMNS"] == "100"


def test_a_width_of_no_columns_blanks_neither_help_nor_tables(start, call, place, monkeypatch):
    assert call("run", place.config).code == 0
    monkeypatch.setenv("TERM", "dumb")
    for arguments, word in ((("run", "--help"), "--exit-no-data"), (("status", "out"), "published")):
        printed = []
        for columns in (None, "0", "many"):
            monkeypatch.delenv("COLUMNS", raising=False)
            if columns is not None:
                monkeypatch.setenv("COLUMNS", columns)
            printed.append(start(*arguments).communicate(timeout=60)[0])
        assert word in printed[0]
        assert printed == printed[:1] * 3


def test_logs_are_dated_lines_where_nobody_watches(call, place):
    err = call("run", "job.yaml").err
    at, level, *message = err.splitlines()[0].split()
    assert datetime.fromisoformat(at).utcoffset() is not None
    assert (level, message[0]) == ("INFO", "tiny/once:")


def test_a_terminal_gets_a_bar_and_short_lines(place):
    program = (
        "import pty, sys\n"
        "status = pty.spawn([sys.executable, '-c', 'from distilbatch.cli import main; main()', 'run', 'job.yaml'])\n"
        "sys.exit(status >> 8)"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TERM": "xterm"}
    options = {"capture_output": True, "text": True, "env": environ, "stdin": subprocess.DEVNULL, "timeout": 120}
    ran = subprocess.run([sys.executable, "-c", program], check=False, **options)
    assert ran.returncode == 0, ran.stdout
    assert "50 of 50 rows" in ran.stdout
    assert "tiny/once: 50 rows in 3 shards" in ran.stdout
    assert "INFO" not in ran.stdout


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.84, "0.8 s"), (245, "4 min 5 s"), (3600 * 2 + 250, "2 h 4 min"), (59.99, "60.0 s")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(512, "512 bytes"), (3_400_000, "3.4 MB"), (1_200_000_000, "1.2 GB")])
def test_sizes(count, text):
    assert size(count) == text


def test_commands_can_be_pasted_into_a_shell():
    assert command("verify", "my out/x") == "distilbatch verify 'my out/x'"
