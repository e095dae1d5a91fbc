"""The config: the reference's fields and defaults, aliases, a round trip without loss, refusals that name the key."""

from __future__ import annotations

import json

import pytest
import transformers

from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.model.activations import make_activation
from distilbatch.model.architectures import ARCHITECTURE_NAMES, known_models
from distilbatch.model.auto import ARCHITECTURES
from distilbatch.model.configuration import ACTIVATIONS, DistilBertConfig, read_json

# fmt: off
REFERENCE_FIELDS = (
    "vocab_size", "max_position_embeddings", "sinusoidal_pos_embds", "n_layers", "n_heads", "dim",
    "hidden_dim", "dropout", "attention_dropout", "activation", "initializer_range", "qa_dropout",
    "seq_classif_dropout", "pad_token_id", "eos_token_id", "bos_token_id", "tie_word_embeddings",
    "num_labels", "problem_type", "hidden_size", "num_attention_heads", "num_hidden_layers",
    "output_hidden_states", "output_attentions", "return_dict",
)
# fmt: on


@pytest.mark.parametrize("name", REFERENCE_FIELDS)
def test_defaults_are_the_references(name):
    assert getattr(DistilBertConfig(), name) == getattr(transformers.DistilBertConfig(), name)


def test_default_labels_are_the_references():
    ours, theirs = DistilBertConfig(num_labels=3), transformers.DistilBertConfig(num_labels=3)
    assert dict(ours.id2label) == theirs.id2label
    assert dict(ours.label2id) == theirs.label2id
    assert DistilBertConfig().labels == ("LABEL_0", "LABEL_1")


def test_every_own_field_of_the_reference_is_a_field_of_ours():
    own = set(transformers.DistilBertConfig.__annotations__) - {"model_type"}
    assert own <= set(DistilBertConfig.__dataclass_fields__)


def test_aliases_are_read_and_shown():
    config = DistilBertConfig.from_dict({"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3})
    assert (config.dim, config.n_heads, config.n_layers) == (32, 4, 3)
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (32, 4, 3)


def test_two_names_of_one_size_must_agree():
    assert DistilBertConfig.from_dict({"dim": 24, "hidden_size": 24, "n_heads": 2}).dim == 24
    with pytest.raises(
        ConfigError, match="hidden_size and dim name the same size; expected one value; found 24 and 36"
    ):
        DistilBertConfig.from_dict({"dim": 24, "hidden_size": 36})


def test_unknown_keys_survive_a_round_trip(tmp_path):
    values = {
        "dim": 24,
        "n_heads": 2,
        "made_by": {"a": [1, None]},
        "torch_dtype": "float16",
        "id2label": {"0": "x", "1": "y"},
    }
    config = DistilBertConfig.from_dict(values)
    assert config.extra == {"made_by": {"a": [1, None]}, "torch_dtype": "float16"}
    config.save(tmp_path / "config.json")
    again = DistilBertConfig.from_file(tmp_path / "config.json")
    assert again == config
    assert again.to_dict()["made_by"] == {"a": [1, None]}


def test_the_reference_reads_what_we_write_and_we_read_what_it_writes(tmp_path):
    config = DistilBertConfig(dim=24, n_heads=2, id2label={0: "a", 1: "b", 2: "ü"}, pad_token_id=5, activation="relu")
    config.save(tmp_path / "config.json")
    theirs = transformers.DistilBertConfig.from_pretrained(tmp_path)
    assert (theirs.dim, theirs.id2label, theirs.pad_token_id) == (24, {0: "a", 1: "b", 2: "ü"}, 5)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = DistilBertConfig.from_file(tmp_path / "theirs" / "config.json")
    assert (ours.labels, ours.activation, ours.pad_token_id) == (("a", "b", "ü"), "relu", 5)


def test_id2label_wins_over_num_labels_as_in_the_reference():
    assert DistilBertConfig.from_dict({"num_labels": 5, "id2label": {"0": "a", "1": "b"}}).num_labels == 2
    assert DistilBertConfig.from_dict({"num_labels": 5, "id2label": None}).num_labels == 5


def test_the_models_are_those_of_the_architectures_that_there_are():
    assert set(ARCHITECTURE_NAMES) == set(ARCHITECTURES)
    config = DistilBertConfig.from_dict({"architectures": "DistilBertForMaskedLM"})
    assert config.architectures == known_models(config.architectures) == ("DistilBertForMaskedLM",)
    found = known_models(["TFDistilBertModel", "Mine", 5, "FlaxDistilBertForMaskedLM"])
    assert found == ("DistilBertModel", "DistilBertForMaskedLM")


def test_nulls_of_older_releases_mean_the_default():
    config = DistilBertConfig.from_dict({"architectures": None, "label2id": None, "output_attentions": None})
    assert (config.architectures, config.output_attentions) == ((), False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dim": 100_000}, r"dim; expected an integer in \[1, 16384\]; found 100000"),
        ({"dim": 0}, r"dim; expected an integer in \[1, 16384\]; found 0"),
        ({"dim": 768.0}, "dim; expected an integer .* found 768.0"),
        ({"dim": "768"}, "dim; expected an integer .* found '768'"),
        ({"n_layers": True}, "n_layers; expected an integer .* found True"),
        ({"n_layers": 129}, r"n_layers; expected an integer in \[1, 128\]"),
        ({"vocab_size": 10**12}, r"vocab_size; expected an integer in \[1, 5000000\]"),
        ({"max_position_embeddings": -1}, "max_position_embeddings; expected an integer"),
        ({"hidden_dim": 10**9}, "hidden_dim; expected an integer"),
        ({"num_labels": -2}, "num_labels; expected an integer"),
        ({"n_heads": 5}, "n_heads; expected a divisor of dim 768; found 5"),
        ({"dropout": 1.5}, r"dropout; expected a number in \[0, 1\]; found 1.5"),
        ({"attention_dropout": float("nan")}, "attention_dropout; expected a number .* found nan"),
        ({"qa_dropout": None}, "qa_dropout; expected a number .* found None"),
        ({"activation": "gelo"}, "activation; expected one of gelu, .*found 'gelo'"),
        ({"activation": 3}, "activation; expected one of gelu, .*found 3"),
        ({"pad_token_id": 30522}, "pad_token_id; expected an id below vocab_size 30522; found 30522"),
        ({"pad_token_id": "0"}, "pad_token_id; .* found '0'"),
        ({"problem_type": "ranking"}, "problem_type; expected one of regression, .* found 'ranking'"),
        (
            {"problem_type": "single_label_classification", "num_labels": 1},
            "problem_type; expected two labels or more; .*use regression",
        ),
        ({"sinusoidal_pos_embds": "yes"}, "sinusoidal_pos_embds; expected true or false; found 'yes'"),
        ({"id2label": {"0": "a", "2": "b"}}, r"id2label; expected the keys 0 to 1; found \[0, 2\]"),
        ({"id2label": {"zero": "a"}}, "id2label; expected integer keys; found .*'zero'"),
        ({"id2label": ["a", "b"]}, "id2label; expected a mapping of class ids to labels; found list"),
    ],
)
def test_wrong_values_are_refused_by_key(tmp_path, values, message):
    with pytest.raises(ConfigError, match=message):
        DistilBertConfig.from_dict(values)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "distilbert", **values}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"^{path}: {message}"):
        DistilBertConfig.from_file(path)


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("bert", "model_type; expected distilbert; found bert; turn it into DistilBERT with `distilbatch convert`"),
        ("roberta", "model_type; expected distilbert; found roberta; point at the folder"),
        (None, "model_type; expected distilbert; found None"),
    ],
)
def test_another_model_is_refused(tmp_path, model_type, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        DistilBertConfig.from_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a JSON file"),
        (b"{'a': 1}", "not a JSON file"),
        (b"\xff\xfe", "not a JSON file"),
        (b"[" * 100_000, "not a JSON file"),
        (b"[1]", "not a JSON object; found list"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{path}: {message}.*fetch the checkpoint again"):
        read_json(path)


def test_a_missing_unreadable_or_huge_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"config.json: no such file; point at a complete checkpoint folder"):
        read_json(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"cannot be read; found .*directory"):
        read_json(tmp_path)
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    with pytest.raises(CheckpointError, match=r"huge.json: too large; expected at most 16777216 bytes; found 17825792"):
        read_json(tmp_path / "huge.json")


def test_a_function_as_activation_cannot_be_saved():
    config = DistilBertConfig(activation=abs)
    assert make_activation(config) is abs
    with pytest.raises(ConfigError, match="activation is a function and cannot be saved; name one of gelu"):
        config.to_dict()


def test_every_listed_activation_can_be_made():
    for name in ACTIVATIONS:
        assert callable(make_activation(DistilBertConfig(activation=name)))


def test_labels_can_be_exchanged():
    config = DistilBertConfig(num_labels=2).with_labels(("a", "b", "c"))
    assert (config.num_labels, config.labels, config.label2id) == (3, ("a", "b", "c"), {"a": 0, "b": 1, "c": 2})
