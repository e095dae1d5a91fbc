"""The demo's checkpoint: whole or absent, built once, rebuilt when it is not what it should be, and of use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from distilbatch.demo import build
from distilbatch.demo.build import PROVENANCE_FILE, build_demo_model
from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.model.checkpoint import list_tensors
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.encoder import DistilBertModel
from distilbatch.model.modeling import DistilBertForSequenceClassification
from distilbatch.train.features import first_token_states

TOPICS = Path(build.__file__).with_name("topics")
INFO = json.loads((TOPICS / "head.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The folder, built; read only."""
    return build_demo_model(tmp_path_factory.mktemp("demo") / "new" / "model")


@pytest.fixture
def own_model(model, tmp_path) -> Path:
    """A copy to break."""
    return shutil.copytree(model, tmp_path / "model")


def topics(folder: Path, texts: list[str]) -> list[str]:
    classifier = DistilBertForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        logits = classifier.head(first_token_states(folder, texts))
    return [classifier.config.labels[i] for i in logits.argmax(1).tolist()]


def test_the_head_that_ships_is_small_finite_and_described():
    tensors = {name: entry.read() for name, entry in list_tensors(TOPICS / "head.safetensors").items()}
    assert (TOPICS / "head.safetensors").stat().st_size < 1_000_000
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    assert tensors["classifier.weight"].shape == (len(INFO["labels"]), 384)
    assert INFO["labels"] == sorted(set(INFO["labels"]))
    assert INFO["command"] in " ".join((TOPICS / "README.md").read_text("utf-8").replace("\\\n", " ").split())
    assert f"{INFO['dev_scores']['accuracy']:.3f}" in (TOPICS / "README.md").read_text("utf-8")


def test_the_checkpoint_names_its_labels_and_nothing_else_lies_beside_it(model):
    config = DistilBertConfig.from_file(model / "config.json")
    assert list(config.labels) == INFO["labels"]
    assert config.architectures == ("DistilBertForSequenceClassification",)
    assert list(model.parent.iterdir()) == [model]


def test_its_labels_make_sense(model):
    texts = {
        "mail": "IMAP and POP3 mail server with spam filtering",
        "database": "relational SQL database server",
        "games": "turn-based strategy game set in space",
        "fonts": "handwriting style TrueType font",
        "vcs": "fast distributed version control system",
        "sound": "multitrack audio recorder and MIDI sequencer",
        "hamradio": "amateur radio satellite tracking program",
    }
    assert topics(model, list(texts.values())) == list(texts)


def test_the_stated_dev_accuracy_is_reached(model, shared_data):
    rows = pq.read_table(shared_data / "debian-sections" / "dev.parquet").to_pylist()
    rows = [row for row in rows if row["section"] in INFO["labels"]]
    found = topics(model, [row["text"] for row in rows])
    right = sum(label == row["section"] for label, row in zip(found, rows, strict=True))
    assert len(rows) == INFO["dev_scores"]["rows"]
    assert right / len(rows) == pytest.approx(INFO["dev_scores"]["accuracy"], abs=0.003)


def test_the_encoder_is_the_one_the_head_was_trained_on(model, tmp_path):
    DistilBertModel.from_pretrained(model).save_pretrained(tmp_path)
    # Compared by content: how a file lays out its tensors is no part of what was trained on.
    ours = {name: entry.read() for name, entry in list_tensors(tmp_path / "model.safetensors").items()}
    build.convert_bert(build.minilm_folder(), tmp_path / "encoder")
    trained_on = {
        name: entry.read() for name, entry in list_tensors(tmp_path / "encoder" / "model.safetensors").items()
    }
    assert ours.keys() == trained_on.keys()
    assert all(torch.equal(ours[name], trained_on[name]) for name in ours)


def test_a_whole_folder_is_used_again_without_the_encoder_package(own_model, monkeypatch):
    monkeypatch.setattr(build, "minilm_folder", lambda: pytest.fail("built again"))
    assert build_demo_model(own_model) == own_model


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", PROVENANCE_FILE])
def test_a_folder_that_was_changed_is_built_again(model, own_model, name):
    (own_model / name).write_bytes(b"{")
    build_demo_model(own_model)
    assert {path.name: path.read_bytes() for path in own_model.iterdir()} == {
        path.name: path.read_bytes() for path in model.iterdir()
    }
    assert list(own_model.parent.iterdir()) == [own_model]


def test_a_build_that_fails_leaves_nothing_and_keeps_what_was_there(own_model, tmp_path, monkeypatch):
    (own_model / "config.json").write_bytes(b"{")
    before = {path.name: path.stat().st_mtime_ns for path in own_model.iterdir()}

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "write_sequence_classifier", full)
    for folder in (own_model, tmp_path / "other" / "model"):
        with pytest.raises(CheckpointError, match=r"demo model .*: cannot be written; found .*No space left on device"):
            build_demo_model(folder)
    assert {path.name: path.stat().st_mtime_ns for path in own_model.iterdir()} == before
    assert list(own_model.parent.iterdir()) == [own_model, tmp_path / "other"]
    assert list((tmp_path / "other").iterdir()) == []


def test_somebody_elses_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"demo model folder .*; found other files; name another folder"):
        build_demo_model(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
