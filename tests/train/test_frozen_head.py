"""The training command: from two Parquet files and an encoder to a head that a checkpoint takes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_job
import torch

from distilbatch.errors import DataError
from distilbatch.fingerprint import sha256_file
from distilbatch.model.checkpoint import list_tensors
from distilbatch.model.convert import write_sequence_classifier
from distilbatch.model.modeling import DistilBertForSequenceClassification
from distilbatch.model.packed import PackedTokens
from distilbatch.train.features import first_token_states
from distilbatch.train.fitting import apply_head
from distilbatch.train.frozen_head import main, read_labelled

WORDS = {"colour": ("red", "green", "blue"), "number": ("one", "two", "three"), "animal": ("fish", "bird")}


def write_rows(path: Path, *, labels: tuple[str, ...] = tuple(WORDS)) -> Path:
    rows = [(f"{a} {b}", label) for label in labels for a in WORDS[label] for b in WORDS[label]] * 5
    pq.write_table(pa.table({"text": [text for text, _ in rows], "kind": [label for _, label in rows]}), path)
    return path


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    tiny_job.write_checkpoint(tmp_path / "encoder")
    write_rows(tmp_path / "train.parquet")
    write_rows(tmp_path / "dev.parquet")
    paths = ["--encoder", "encoder", "--train", "train.parquet", "--dev", "dev.parquet", "--out", "out"]
    joined = [str(tmp_path / value) if not value.startswith("--") else value for value in paths]
    return [*joined, "--label", "kind", "--epochs", "30", "--batch-rows", "16", "--max-lr", "0.02"]


def test_the_command_writes_a_head_that_learned_and_where_it_came_from(tmp_path, arguments):
    main(arguments)
    info = json.loads((tmp_path / "out" / "head.json").read_text())
    assert info["labels"] == ["animal", "colour", "number"]
    assert info["dev_scores"]["accuracy"] > 0.9
    assert info["dev_scores"]["rows"] == info["dev"]["rows"] == 5 * (9 + 9 + 4)
    assert info["command"].startswith("python -m distilbatch.train.frozen_head --encoder ")
    assert info["encoder_sha256"] == sha256_file(tmp_path / "encoder" / "model.safetensors")
    assert info["train"]["sha256"] == sha256_file(tmp_path / "train.parquet")
    assert info["options"]["epochs"] == 30


def test_a_checkpoint_with_the_head_predicts_what_the_fit_scored(tmp_path, arguments):
    main(arguments)
    head = {name: entry.read().float() for name, entry in list_tensors(tmp_path / "out" / "head.safetensors").items()}
    labels = json.loads((tmp_path / "out" / "head.json").read_text())["labels"]
    write_sequence_classifier(tmp_path / "encoder", tmp_path / "model", head=head, labels=labels)
    model = DistilBertForSequenceClassification.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        logits = model.forward_packed(PackedTokens.from_lengths(torch.tensor([2, 11, 12, 3]), [4]))
    expected = apply_head(head, first_token_states(tmp_path / "encoder", ["fish bird"]))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert labels[int(logits.argmax())] == "animal"


def test_rows_of_a_label_can_be_left_out(tmp_path, arguments):
    main([*arguments, "--leave-out", "number"])
    assert json.loads((tmp_path / "out" / "head.json").read_text())["labels"] == ["animal", "colour"]


@pytest.mark.parametrize(
    ("change", "exit_code", "message"),
    [
        (["--label", "sort"], 3, "no column 'sort'; found text, kind"),
        (["--train", "missing.parquet"], 3, "missing.parquet: cannot be read as Parquet"),
        (["--epochs", "0"], 2, "epochs; expected at least 1; found 0"),
        (["--encoder", "missing"], 6, "checkpoint missing; expected a folder"),
        (["--leave-out", "colour", "--leave-out", "number", "--leave-out", "animal"], 3, "no rows"),
    ],
)
def test_a_known_error_is_one_line_and_its_exit_code(arguments, capsys, change, exit_code, message):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, *change])
    assert stop.value.code == exit_code
    assert message in capsys.readouterr().err


def test_a_dev_label_that_was_never_trained_is_refused(tmp_path, arguments, capsys):
    write_rows(tmp_path / "train.parquet", labels=("colour", "number"))
    with pytest.raises(SystemExit, match="3"):
        main(arguments)
    assert "dev labels; expected labels of the training rows; found animal" in capsys.readouterr().err


def test_a_null_text_is_refused(tmp_path):
    pq.write_table(pa.table({"text": ["red", None], "kind": ["a", "b"]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="column 'text'; expected no nulls; found 1 nulls"):
        read_labelled(tmp_path / "rows.parquet", text="text", label="kind")


def write(path: Path, texts: pa.Array, labels: pa.Array) -> Path:
    pq.write_table(pa.table({"text": texts, "kind": labels}), path)
    return path


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),  # a category of pandas
        (pa.array([1, 2, 1]), ["1", "2", "1"]),
        (pa.array([True, False, True]), ["true", "false", "true"]),
        (pa.array([b"x", b"y", b"x"]), ["x", "y", "x"]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_labels_of_any_type_become_strings(tmp_path, labels, expected):
    path = write(tmp_path / "rows.parquet", pa.array(["a", "b", "c"]), labels)
    assert read_labelled(path, text="text", label="kind") == (["a", "b", "c"], expected)
    left = read_labelled(path, text="text", label="kind", leave_out=[expected[1]])
    assert left == (["a", "c"], [expected[0], expected[2]])


@pytest.mark.parametrize("kind", [pa.string(), pa.binary(), pa.large_binary()], ids=str)
def test_texts_are_read_by_the_rules_of_the_library(tmp_path, kind):
    texts = pa.array([b"a", b"\xff red"]).cast(pa.large_binary() if kind == pa.large_binary() else pa.binary())
    texts = texts.view(kind)
    path = write(tmp_path / "rows.parquet", texts, pa.array(["x", "y"]))
    assert read_labelled(path, text="text", label="kind")[0] == ["a", "\ufffd red"]
    words = pa.array(["a", "b"]).dictionary_encode()
    assert read_labelled(write(path, words, pa.array(["x", "y"])), text="text", label="kind")[0] == ["a", "b"]


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (pa.array([1]), pa.array(["x"]), "column 'text'; expected texts; found int64"),
        (pa.array(["a"]), pa.array([["x"]]), "column 'kind'; expected labels that can be written as a string; found"),
        (pa.array(["a"]), pa.array([b"\xff"]).view(pa.string()), "column 'kind'; expected labels that can be written"),
    ],
    ids=["numbers", "lists", "bytes"],
)
def test_columns_that_are_no_texts_or_labels_are_named(tmp_path, texts, labels, message):
    with pytest.raises(DataError) as caught:
        read_labelled(write(tmp_path / "rows.parquet", texts, labels), text="text", label="kind")
    assert message in str(caught.value)


def test_an_unknown_dev_label_that_is_a_number_is_named(tmp_path, arguments, capsys):
    write(tmp_path / "train.parquet", pa.array(["red", "one"]), pa.array([1, 2]))
    write(tmp_path / "dev.parquet", pa.array(["red", "one"]), pa.array([1, 3]))
    with pytest.raises(SystemExit, match="3"):
        main(arguments)
    assert "dev labels; expected labels of the training rows; found 3" in capsys.readouterr().err
