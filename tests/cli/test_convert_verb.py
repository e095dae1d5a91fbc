"""``convert``: a BERT folder in, a DistilBERT folder out."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from distilbatch.model.modeling import DistilBertModel


@pytest.fixture
def bert(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12
    )
    transformers.BertForSequenceClassification(config).save_pretrained("bert")
    (tmp_path / "bert" / "vocab.txt").write_text("[PAD]\n")
    return "bert"


def test_a_checkpoint_is_written_and_what_was_left_out_is_said(call, bert, tmp_path):
    ran = call("convert", bert, "distil")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "written: distil"
    assert "classifier.weight" in lines[1]
    assert lines[2].startswith("note: the classifier was left out")
    assert DistilBertModel.from_pretrained(tmp_path / "distil").config.dim == 8


def test_json_lists_the_same(call, bert):
    made = json.loads(call("convert", bert, "distil", "--json").out)
    assert made["folder"] == "distil"
    assert "classifier.weight" in made["dropped"]
    assert len(made["notes"]) == 1


@pytest.mark.parametrize(
    ("source", "target", "code", "message"),
    [("nowhere", "distil", 6, "nowhere"), ("bert", "bert", 2, "bert"), ("full", "distil", 6, "full")],
)
def test_what_cannot_be_converted_is_refused(call, bert, tmp_path, source, target, code, message):
    (tmp_path / "full").mkdir()
    ran = call("convert", source, target)
    assert ran.code == code
    assert ran.err.startswith("error: ")
    assert message in ran.err
    assert not (tmp_path / "distil").exists()
