"""Weights in pickles: read on request, as tensors only; code in one never runs and damage is named."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import torch
from wild_checkpoints import make, store, write

from distilbatch.errors import CheckpointError
from distilbatch.model.auto import load
from distilbatch.model.checkpoint import read_entries
from distilbatch.model.modeling import DistilBertModel


@pytest.mark.parametrize("form", ["pickle", "pickle of 2019", "pickle shards"])
def test_a_pickle_is_refused_unless_allowed(tmp_path, form):
    folder = write(tmp_path, make("DistilBertModel"), form)
    message = r"only pytorch_model.bin\S*; expected model.safetensors; found a pickle, which can run code.*allow_pickle"
    for reader in (DistilBertModel.from_pretrained, load):
        with pytest.raises(CheckpointError, match=message):
            reader(folder)


def test_safetensors_come_before_a_pickle(tmp_path):
    folder = write(tmp_path, make("DistilBertModel"))
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    assert isinstance(load(folder, allow_pickle=True), DistilBertModel)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("form", ["pickle", "pickle of 2019", "pickle shards"])
@pytest.mark.parametrize("place", ["value", "nested", "key", "whole"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not(tmp_path, form, place):
    folder = write(tmp_path / "model", make("DistilBertModel"), form)
    bomb = Bomb(tmp_path / "exploded")
    contents = {"value": {"a": bomb}, "nested": {"a": [torch.ones(1), {"b": bomb}]}, "key": {bomb: 1}, "whole": bomb}
    path = next(folder.glob("*.bin"))
    store(contents[place], path, form)
    with pytest.raises(CheckpointError, match=rf"{path.name}: cannot be read as tensors only; .*do not use this check"):
        load(folder, allow_pickle=True)
    assert not bomb.target.exists()
    torch.load(path, weights_only=False)
    assert bomb.target.exists()  # so the bomb was live


@pytest.mark.parametrize("content", [[torch.ones(1)], {"a": 3}, {"model": {"a": torch.ones(1)}}])
def test_a_pickle_of_anything_but_tensors_by_name_is_refused(tmp_path, content):
    folder = write(tmp_path, make("DistilBertModel"), "pickle")
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"not a state dict; expected tensors by name; found \w+; save the model"):
        load(folder, allow_pickle=True)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02", b"not a pickle"])
def test_a_damaged_pickle_is_refused(tmp_path, content):
    folder = write(tmp_path, make("DistilBertModel"), "pickle")
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: cannot be read as tensors only; found "):
        load(folder, allow_pickle=True)


@pytest.mark.parametrize("form", ["pickle", "pickle of 2019"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_with_wrong_bytes_is_refused_and_nothing_else_is_raised(tmp_path, form):
    folder = write(tmp_path, make("DistilBertModel", n_layers=1), form)
    path = folder / "pytorch_model.bin"
    whole = path.read_bytes()
    rng = random.Random(form)
    refusals = []
    for attempt in range(300):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if attempt % 3 == 0 else whole)
        for _ in range(min(attempt % 3 * 2, len(damaged))):
            damaged[rng.randrange(min(len(damaged), 1500))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_entries(folder, allow_pickle=True)
        except CheckpointError as error:
            refusals.append(str(error))
    assert len(refusals) > 150
    assert all("cannot be read as tensors only" in text or "not a state dict" in text for text in refusals)


@pytest.mark.parametrize("name", ["../m.bin", "/etc/m.bin", "sub/m.bin", "model.safetensors"])
def test_an_index_of_pickles_must_not_leave_its_folder(tmp_path, name):
    folder = write(tmp_path, make("DistilBertModel"), "pickle shards")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="file of a; expected a bin file in the same folder; found"):
        load(folder, allow_pickle=True)
