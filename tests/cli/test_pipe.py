"""``pipe``: lines in, JSON Lines out, one for each line and in its order, as soon as it is known."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_job
import torch
from tiny_models import write_model

from distilbatch import Annotator
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.modeling import DistilBertForMultipleChoice, DistilBertForSequenceClassification


@pytest.fixture
def pipe(call: Callable) -> Callable:
    """Run ``pipe`` on bytes; gives the code, the objects it printed, and what it complained of."""

    def pipe(model: Path, data: bytes, *arguments: object) -> tuple[int, list[dict], str]:
        ran = call("pipe", "--model", model, "--device", "cpu", *arguments, stdin=data)
        return ran.code, [json.loads(line) for line in ran.out.splitlines()], ran.err

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
        (("-o", "top_k=0"), "error: text-classification: top_k: expected a whole number of at least 1"),
        (("-o", "topk=1"), "error: text-classification: topk: unknown key (did you mean 'top_k'?)"),
        (("-o", "device=cuda"), "error: -o device\n  expected: an option of text-classification"),
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
