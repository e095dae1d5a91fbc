"""A hub id in place of a folder: told apart from paths, loaded by every model, with the environment heard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.model import auto
from distilbatch.model.configuration import CONFIG_FILE
from distilbatch.model.modeling import DistilBertForSequenceClassification
from distilbatch.model.source import Source, locate

IDS = torch.arange(12).view(2, 6)


@pytest.mark.parametrize("name", ["a--b", "a..b", "org/a.", "x" * 300])
def test_what_is_no_hub_id_is_refused(name):
    with pytest.raises(CheckpointError, match=r"hub model \S+: revision main cannot be fetched; found HFValidation"):
        locate(name)


@pytest.mark.parametrize("name", ["./a/b", "/a/b", "~/a", "../a", "a/b/c", "a/", "a\\b", ".", "", "a b", "-a", "ü"])
def test_what_cannot_be_a_hub_id_is_a_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert locate(name) == Source(Path(name))
    assert locate(Path("org/name")) == Source(Path("org/name"))
    with pytest.raises(CheckpointError, match=r"checkpoint .*; expected a folder with config.json .*check the path"):
        auto.load(Path("org/name"))
    with pytest.raises(ConfigError, match=r"revision v1 of .*; expected a hub id; found a folder; leave"):
        locate(name, revision="v1")


def test_a_folder_comes_before_a_hub_id(tmp_path, monkeypatch, tiny_checkpoint):
    folder = tiny_checkpoint()
    monkeypatch.chdir(folder.parent)
    assert auto.load(folder.name).origin.source == Source(Path(folder.name))
    message = "checkpoint model.bin: .*found a file|checkpoint model.bin; .*found a file"
    (tmp_path / "model.bin").touch()
    with pytest.raises(CheckpointError, match=message):
        auto.load("model.bin")


def test_a_mistyped_path_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    message = "checkpoint models/tony; .*found the folder models without tony in it; check the path; if the hub's"
    with pytest.raises(CheckpointError, match=message):
        locate("models/tony")


@pytest.mark.parametrize(
    ("name", "found"),
    [("./" + "x" * 300, "File name too long"), ("./a\0b", "embedded null byte")],
    ids=["long", "null"],
)
def test_a_path_that_cannot_be_looked_at_is_no_model(name, found):
    with pytest.raises(CheckpointError, match=f"expected a folder with config.json .*; found {found}; check the path"):
        auto.load(name)
    with pytest.raises(CheckpointError, match=r"hub model \S+: revision main cannot be fetched; found HFValidation"):
        locate(f"{'x' * 300}/name")


@pytest.mark.parametrize("load", [auto.load, DistilBertForSequenceClassification.from_pretrained])
def test_what_was_fetched_is_loaded_by_its_id(server, tiny_checkpoint, fetch, monkeypatch, load):
    folder = tiny_checkpoint()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    commit = server.repo("org/old").commit_folder(folder, "v1")
    server.repo("org/old").commit({CONFIG_FILE: b"{}"})
    fetch("org/old", revision="v1", allow_pickle=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(fetch.keywords["cache_dir"]))
    model = load("org/old", revision="v1", allow_pickle=True, local_files_only=True)
    assert (model.origin.source.repo_id, model.origin.source.commit) == ("org/old", commit)
    expected = DistilBertForSequenceClassification.from_pretrained(folder, allow_pickle=True)(IDS).logits
    assert torch.equal(model(IDS).logits, expected)
    with pytest.raises(CheckpointError, match="revision main cannot be fetched; found offline mode"):
        load("org/old", allow_pickle=True, local_files_only=True)
    with pytest.raises(CheckpointError, match=r"only pytorch_model\.bin"):
        load("org/old", revision="v1", local_files_only=True)


PROGRAM = """
import json, sys, torch
from distilbatch.errors import CheckpointError
from distilbatch.model import auto, modeling
torch.set_num_threads(1)
found = {}
for name in json.loads(sys.argv[1]):
    try:
        cls = getattr(modeling, name.partition("/")[2], None)
        model = cls.from_pretrained(name, revision="v1") if cls else auto.load(name)
        found[name] = [type(model).__name__, str(model.origin.source.folder), model.origin.source.commit]
    except CheckpointError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


def test_every_model_is_loaded_by_hub_id_and_the_environment_is_heard(server, tiny_checkpoint, tmp_path):
    kinds = [name for name in auto.ARCHITECTURES if name != "DistilBertForQuestionAnswering"]  # it wants two labels
    expected = {}
    for kind in kinds:
        commit = server.repo(f"org/{kind}").commit_folder(tiny_checkpoint(kind.removeprefix("DistilBert")), "v1")
        folder = tmp_path / "home" / "hub" / f"models--org--{kind}" / "snapshots" / commit
        expected[f"org/{kind}"] = [kind, str(folder), commit]
    server.moved["tiny"] = "org/DistilBertModel"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))},
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": server.url,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }

    def run(**more: str) -> dict[str, object]:
        command = [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps([*expected, "tiny", "org/none"])]
        ran = subprocess.run(command, env=environment | more, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    first = run()
    assert first.pop("org/none").startswith("hub model org/none: the hub has no such model")
    assert first.pop("tiny")[::2] == expected["org/DistilBertModel"][::2]
    assert first == expected
    assert not any("agent" in path for path in server.paths())
    offline = run(HF_HUB_OFFLINE="1")
    assert server.paths() == []
    assert "found offline mode" in offline.pop("org/none")
    assert offline.pop("tiny")[::2] == expected["org/DistilBertModel"][::2]
    assert offline == expected
