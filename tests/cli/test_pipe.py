"""``pipe``: lines in, JSON Lines out, one for each line and in its order, as soon as it is known."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_job
import torch
from tiny_models import write_model

from distilbatch import Annotator
from distilbatch.cli.lines import MAX_LINE_BYTES, BackgroundLines, is_cut
from distilbatch.errors import SetupError
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.modeling import DistilBertForMultipleChoice, DistilBertForSequenceClassification


@pytest.fixture
def pipe(call: Callable) -> Callable:
    """Run ``pipe`` on bytes; gives the code, the objects it printed, and what it complained of."""

    def pipe(model: Path, data: bytes, *arguments: object) -> tuple[int, list[dict], str]:
        ran = call("pipe", "--model", model, "--device", "cpu", *arguments, stdin=data)
        return ran.code, [json.loads(line) for line in ran.out.split("\n") if line], ran.err

    return pipe


@pytest.fixture
def expected(model: Path) -> Callable[[str], dict | None]:
    annotator = Annotator(model=model, device="cpu")

    def expected(text: str) -> dict | None:
        prediction = annotator([text])[0]
        return prediction and {**prediction, "score": pytest.approx(prediction["score"], abs=1e-5)}

    return expected


@pytest.fixture(scope="module")
def chooser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chooser") / "model"
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(tiny_job.VOCABULARY), max_position_embeddings=16, n_layers=1, n_heads=2, dim=8, hidden_dim=8
    )
    DistilBertForMultipleChoice(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(tiny_job.VOCABULARY) + "\n")
    return folder


def test_lines_of_text_become_objects_with_a_prediction(pipe, model, expected):
    code, found, complaints = pipe(model, "red fish\r\n\nblue  bird \nниче́го\n[1]\nno end of line".encode())
    assert (code, complaints) == (0, "")
    texts = ["red fish", "", "blue  bird ", "ниче́го", "[1]", "no end of line"]
    assert found == [{"text": text, "prediction": expected(text)} for text in texts]
    assert found[1]["prediction"] is None
    assert found[0]["prediction"]["label"] in {"yes", "no"}


def test_objects_come_back_with_all_their_keys(pipe, model, expected):
    rows = [
        {"id": 7, "text": "red"},
        {"text": None},
        {"error": "mine", "text": "blue"},
        {"id": 8},
        {"prediction": 3, "text": "one"},
    ]
    code, found, _ = pipe(model, "".join(json.dumps(row) + "\n" for row in rows).encode())
    assert code == 0
    predictions = [expected("red"), None, expected("blue"), None, expected("one")]
    assert found == [{**row, "prediction": value} for row, value in zip(rows, predictions, strict=True)]


def test_a_line_that_cannot_be_read_is_an_error_and_the_others_go_on(pipe, model, expected):
    lines = [
        b'{"text": "red"',
        b'{"text": 5}',
        b'{"text": "blue"}',
        b'{"text": ["red"]}',
        b'{"a": ' + b"[" * 100_000,
        b"fish",
    ]
    code, found, _ = pipe(model, b"\n".join(lines))
    assert code == 0
    assert ["error" in row for row in found] == [True, True, False, True, True, False]
    assert found[0]["error"].startswith("not a JSON object: ")
    assert found[0]["text"] == '{"text": "red"'
    assert found[1]["error"] == "text[0]; expected a text or None; found int"
    assert [row["prediction"] for row in found] == [None, None, expected("blue"), None, None, expected("fish")]


def test_bytes_that_are_not_utf_8_are_replaced(pipe, model):
    code, found, _ = pipe(model, b"red \xff fish\nblue\n")
    assert code == 0
    assert [row["text"] for row in found] == ["red \N{REPLACEMENT CHARACTER} fish", "blue"]
    assert all(row["prediction"] for row in found)


def test_a_value_that_json_cannot_hold_or_nest_is_an_error_of_its_line(pipe, model, expected):
    deep = [b'{"x": ' + b"[" * depth + b"]" * depth + b"}" for depth in (*range(900, 1000), 100_000)]
    lines = [b'{"text": "red"}', b'{"text": "red", "x": 1e999}', b'{"x": NaN}', *deep, b'{"text": "blue"}']
    code, found, complaints = pipe(model, b"\n".join(lines))
    assert (code, complaints, len(found)) == (0, "", len(lines))
    assert [(row["text"], row["prediction"]) for row in found[1:3]] == [
        ('{"text": "red", "x": 1e999}', None),
        ('{"x": NaN}', None),
    ]
    assert all(row["error"].startswith("cannot be written as JSON: Out of range") for row in found[1:3])
    assert all(row["text"] == line.decode() for row, line in zip(found[3:-1], deep, strict=True) if "error" in row)
    assert "error" in found[-2]
    assert [found[0], found[-1]] == [{"text": text, "prediction": expected(text)} for text in ("red", "blue")]


def test_a_byte_order_mark_is_not_part_of_the_first_line(pipe, model, expected):
    for data in (b'{"text": "red"}\n', b"red\n"):
        assert pipe(model, b"\xef\xbb\xbf" + data)[1] == [{"text": "red", "prediction": expected("red")}]
    assert pipe(model, b"\xef\xbb\xbf") == (0, [], "")


def test_the_format_of_lines_can_be_named(pipe, model, expected):
    lines = [b'{"text": "red"}', b"{ red fish }", b"blue", b"", b"[1]"]
    texts = [line.decode() for line in lines]
    code, found, _ = pipe(model, b"\n".join(lines) + b"\n", "--format", "text")
    assert (code, found) == (0, [{"text": text, "prediction": expected(text)} for text in texts])
    code, found, _ = pipe(model, b"\n".join(lines) + b"\n", "--format", "json")
    assert code == 0
    assert found[0] == {"text": "red", "prediction": expected("red")}
    assert [row["text"] for row in found[1:]] == texts[1:]
    assert all(row["error"].startswith("not a JSON object: ") for row in found[1:])


def test_only_a_line_feed_ends_a_line(pipe, model):
    assert [row["text"] for row in pipe(model, "a\rb\u2028c\x0bd\r\n".encode())[1]] == ["a\rb\u2028c\x0bd"]


def test_the_answers_are_utf_8_whatever_the_locale(start, model, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    process = start("pipe", "--model", model, "--device", "cpu", stdin=subprocess.PIPE, encoding="utf-8")
    out, _ = process.communicate('é 🙂\n{"text": "\\ud800", "é": 1}\n', timeout=60)
    assert [{**json.loads(line), "prediction": 0} for line in out.splitlines()] == [
        {"text": "é 🙂", "prediction": 0},
        {"text": "\ud800", "é": 1, "prediction": 0},
    ]
    assert "é 🙂" in out


class Torn(io.BytesIO):
    """A stream that breaks behind its content."""

    def readline(self, size: int | None = -1) -> bytes:
        if line := super().readline(size):
            return line
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_lines_before_the_place_where_a_stream_breaks_are_given():
    batches = BackgroundLines(Torn(b"red\nblue\n")).batches()
    given = []
    with pytest.raises(SetupError, match=r"cannot be read to its end; found .*Errno 5"):
        given.extend(itertools.chain.from_iterable(batches))
    assert given == [b"red\n", b"blue\n"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("excess", [0, 1, 100_000])
def test_a_line_is_whole_up_to_its_limit(mark, excess):
    content = b"x" * (MAX_LINE_BYTES - len(mark) + excess)
    stream = io.BytesIO(mark + content + b"\nnext\nlast")
    first, *others = itertools.chain.from_iterable(BackgroundLines(stream).batches())
    assert (is_cut(first), others) == (bool(excess), [b"next\n", b"last"])
    assert excess or first == content + b"\n"


def test_a_stream_that_cannot_be_read_ends_the_program_with_a_message(start, model):
    with open(os.devnull, "w") as unreadable:
        process = start("pipe", "--model", model, "--device", "cpu", stdin=unreadable)
        out, complaints = process.communicate(timeout=60)
    assert (process.returncode, out) == (6, "")
    assert complaints.startswith("error: standard input cannot be read to its end\n  found:    ")


@pytest.mark.parametrize("arguments", [("pipe", "--model", "model", "--device", "cpu"), ("config", "check", "-")])
def test_a_standard_input_that_is_closed_is_a_usage_error(start, place, arguments):
    process = start(*arguments, preexec_fn=lambda: os.close(0))
    out, complaints = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch("error: .*standard input.*\n(  .*\n)*", complaints)


def test_options_and_columns_are_those_of_the_task(pipe, model, chooser):
    _, found, _ = pipe(
        model, b'{"body": "red"}\n', "--text", "body", "-o", "top_k=2", "-o", "function_to_apply=sigmoid"
    )
    assert len(found[0]["prediction"]["scores"]) == 2
    lines = [b'{"text": "red", "c": ["one", "two"]}', b'{"text": "red", "c": [1, 2]}', b'{"text": "red", "c": "a"}']
    lines += [b"red", b'{"text": "red", "c": ["one"]}', b'{"c": ["one"]}']
    data = b"\n".join(lines)
    code, found, _ = pipe(chooser, data, "--task", "multiple-choice", "-o", "choices=[c]")
    assert code == 0
    assert len(found[0]["prediction"]["scores"]) == 2
    assert [row["prediction"] for row in found[1:]] == [None] * 5
    assert found[1]["error"].startswith("c[0]; ")
    assert [row.get("error") for row in found[3:]] == [
        "prediction: the choices are null", "prediction: expected at least 2 choices, found 1", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "top_k"), "error: -o top_k: expected KEY=VALUE"),
        (("-o", "text_pair=a #b"), "error: -o text_pair: not a YAML value: '#' begins a comment"),
        (("-o", "top_k=0"), "error: text-classification: top_k: expected a whole number of at least 1"),
        (("-o", "topk=1"), "error: text-classification: topk: unknown key (did you mean 'top_k'?)"),
        (("-o", "device=cuda"), "error: -o device\n  expected: an option of text-classification"),
        (("--format", "csv"), "error: --format\n  expected: auto, text or json"),
        (("--task", "ner"), "error: task\n  expected: "),
        (("--task", "fill-mask"), "has another head"),
    ],
)
def test_wrong_arguments_end_the_program_with_a_message(pipe, model, arguments, message):
    code, found, complaints = pipe(model, b"red\n", *arguments)
    assert code not in {0, 1}
    assert found == []
    assert message in complaints


def test_an_empty_stream_gives_nothing(pipe, model):
    assert pipe(model, b"") == (0, [], "")


def test_a_result_arrives_before_the_stream_ends(start, model):
    process = start("pipe", "--model", model, "--device", "cpu", stdin=subprocess.PIPE)
    try:
        for text in ("red", "blue"):
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == text
        rest, complaints = process.communicate("one\ntwo\n", timeout=60)
    finally:
        process.kill()
        process.wait()
    assert [json.loads(line)["text"] for line in rest.splitlines()] == ["one", "two"]
    assert (process.returncode, complaints) == (0, "")


# --- Memory ----------------------------------------------------------------------------------------------------------

MEGABYTE = b"red fish" * (1 << 17)
GROWTH_BYTES = 100 << 20


def peak_bytes(process: subprocess.Popen[str]) -> int:
    """The most memory that a process has held so far."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    return int(found[1]) << 10


@pytest.mark.parametrize(
    ("lines", "megabytes", "ends", "problem"),
    [
        pytest.param(1, 200, (b"", b"\n"), "longer than 8388608 bytes; this is its beginning", id="one long line"),
        pytest.param(160, 1, (b'{"text": "red", "x": "', b'"}\n'), None, id="many long lines"),
    ],
)
def test_memory_is_bounded_whatever_the_length_and_number_of_lines(start, model, lines, megabytes, ends, problem):
    seen = []

    def read() -> None:
        for row in (json.loads(line) for line in process.stdout):
            seen.append((row["text"][:8], row["prediction"] is not None, row.get("error"), peak_bytes(process)))

    with start("pipe", "--model", model, "--device", "cpu", stdin=subprocess.PIPE) as process:
        reader = threading.Thread(target=read)
        try:
            process.stdin.write("red\n")
            process.stdin.flush()
            reader.start()
            while not seen and reader.is_alive():
                time.sleep(0.01)
            for _ in range(lines):
                process.stdin.buffer.write(ends[0])
                for _ in range(megabytes):
                    process.stdin.buffer.write(MEGABYTE)
                process.stdin.buffer.write(ends[1])
            process.stdin.write("blue\n")
            process.stdin.close()
            reader.join()
        finally:
            process.kill()
    text = "red" if problem is None else "red fish"
    assert [item[:3] for item in seen[1:]] == [*[(text, problem is None, problem)] * lines, ("blue", True, None)]
    assert max(peak for *_, peak in seen) - seen[0][3] < GROWTH_BYTES


# --- How it starts and how it ends -----------------------------------------------------------------------------------

ENDLESS = [sys.executable, "-c", "while True: print('red fish', flush=False)"]
FIRST_ANSWER_S = 6.0  # half of that on an idle machine
TORCH_TIMES = 3.0  # where others keep the machine busy, torch alone takes longer than it should, and so may we


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained classifier of MiniLM's size and with its vocabulary."""
    folder = tmp_path_factory.mktemp("minilm") / "model"
    sizes = {"n_layers": 6, "n_heads": 12, "dim": 384, "hidden_dim": 1536, "max_position_embeddings": 512}
    return write_model(DistilBertForSequenceClassification, folder, **sizes)


def torch_s() -> float:
    """Seconds that a program takes which only imports torch."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - began


def test_the_first_answer_comes_soon_and_before_the_stream_ends(start, minilm):
    late = []
    for _ in range(3):
        bound = max(FIRST_ANSWER_S, TORCH_TIMES * torch_s())
        began = time.perf_counter()
        with start("pipe", "--model", minilm, "--device", "cpu", stdin=subprocess.PIPE) as process:
            try:
                process.stdin.write("red fish\n")
                process.stdin.flush()
                assert json.loads(process.stdout.readline())["prediction"]
                seconds = time.perf_counter() - began
                assert process.communicate(timeout=60) == ("", "")
            finally:
                process.kill()
        assert process.returncode == 0
        if seconds < bound:
            return
        late.append(f"{seconds:.1f} s, allowed {bound:.1f} s")
    pytest.fail(", ".join(late))


def test_a_reader_that_goes_away_ends_it_quietly_however_long_the_stream(start, model):
    with (
        subprocess.Popen(ENDLESS, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as endless,
        start("pipe", "--model", model, "--device", "cpu", stdin=endless.stdout) as process,
    ):
        try:
            assert json.loads(process.stdout.readline())["text"] == "red fish"
            process.stdout.close()
            assert process.wait(timeout=60) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()
            endless.kill()


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_ctrl_c_ends_it_quietly(start, model, busy):
    process = start("pipe", "--model", model, "--device", "cpu", stdin=subprocess.PIPE)
    try:
        process.stdin.write("red\n" * (3000 if busy else 1))
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, complaints) == (130, "")
