"""Checkpoints as they are found: every layout of files and names gives the model that the reference reads from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from wild_checkpoints import DECODER, FORMS, SIZES, WORDS, make, published, write

from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.model import modeling
from distilbatch.model.auto import ARCHITECTURES, load
from distilbatch.model.configuration import CONFIG_FILE, DistilBertConfig
from distilbatch.model.modeling import DistilBertForMaskedLM, DistilBertForSequenceClassification, DistilBertModel

PUBLISHED = sorted((Path(__file__).parent / "configs").glob("*.json"))
HEADS = tuple(name for name in ARCHITECTURES if name != "DistilBertModel")
IDS = torch.arange(24).view(2, 12)


def inputs(architecture: str) -> torch.Tensor:
    return IDS[None] if architecture.endswith("MultipleChoice") else IDS


def first(model, architecture: str) -> torch.Tensor:
    """Return the model's first output."""
    with torch.no_grad():
        return model(inputs(architecture))[0]


def same(ours, theirs, architecture: str) -> None:
    torch.testing.assert_close(first(ours, architecture), first(theirs, architecture), atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_form_of_every_model_is_what_the_reference_reads(tmp_path, architecture, form):
    model = make(architecture)
    folder = write(tmp_path, model, form)
    ours = load(folder, allow_pickle=True)
    assert type(ours).__name__ == architecture
    same(ours, model, architecture)
    same(ours, getattr(transformers, architecture).from_pretrained(folder), architecture)
    assert (ours.origin.new_weights, ours.origin.unused_weights, ours.origin.source.folder) == ((), (), folder)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_configs_survive_a_round_trip(tmp_path, path):
    values = json.loads(path.read_text())
    config = DistilBertConfig.from_file(path)
    assert config.extra.keys() == values.keys() & {
        "tie_weights_",
        "output_past",
        "finetuning_task",
        "transformers_version",
    }
    assert values.items() <= config.to_dict().items()
    config.save(tmp_path / CONFIG_FILE)
    assert DistilBertConfig.from_file(tmp_path / CONFIG_FILE) == config
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / CONFIG_FILE).write_text(path.read_text())
    before, after = (transformers.DistilBertConfig.from_pretrained(folder) for folder in (tmp_path / "old", tmp_path))
    stamp = "transformers_version"
    assert {**after.to_dict(), "architectures": 0, stamp: 0} == {**before.to_dict(), "architectures": 0, stamp: 0}


def test_there_is_a_config_of_every_published_checkpoint():
    assert len(PUBLISHED) == 6


@pytest.mark.parametrize("form", ["safetensors", "pickle of 2019"])
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_layouts_are_read(tmp_path, path, form):
    config = {**json.loads(path.read_text()), **SIZES}
    architecture = config.get("architectures", ["DistilBertForMaskedLM"])[0]
    known = {key: value for key, value in config.items() if key not in ("architectures", "model_type")}
    model = make(architecture, **known)
    # The pickles hold a tied decoder under both names.
    tensors = model.state_dict() if form == "pickle of 2019" else None
    folder = write(tmp_path, model, form, config=config, tensors=tensors)
    ours = getattr(modeling, architecture).from_pretrained(folder, allow_pickle=True)
    same(ours, getattr(transformers, architecture).from_pretrained(folder), architecture)
    if architecture == "DistilBertForMaskedLM":
        assert ours.vocab_projector.weight is ours.get_input_embeddings().weight
    same(DistilBertModel.from_pretrained(folder, allow_pickle=True), model.distilbert, "DistilBertModel")


def test_stored_positions_win_over_the_formula_for_them(tmp_path):
    model = make("DistilBertForQuestionAnswering", sinusoidal_pos_embds=True)
    stored = torch.randn(16, 8)
    tensors = {**published(model), "distilbert.embeddings.position_embeddings.weight": stored}
    folder = write(tmp_path, model, tensors=tensors)
    ours = load(folder)
    assert torch.equal(ours.get_position_embeddings().weight, stored)
    assert not ours.get_position_embeddings().weight.requires_grad
    same(ours, type(model).from_pretrained(folder), "DistilBertForQuestionAnswering")
    fresh = DistilBertForSequenceClassification.from_pretrained(folder, new_head=True)
    assert torch.equal(fresh.get_position_embeddings().weight, stored)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("prefixed", [False, True])
def test_a_base_checkpoint_takes_any_head_and_says_which_weights_are_new(tmp_path, head, prefixed):
    base = make("DistilBertModel", dim=64, initializer_range=0.05)
    tensors = {f"distilbert.{name}" if prefixed else name: tensor for name, tensor in base.state_dict().items()}
    folder = write(tmp_path, base, tensors=tensors)
    with pytest.raises(CheckpointError, match=rf"do not fit {head}; found \d missing: .*; this checkpoint has no such"):
        getattr(modeling, head).from_pretrained(folder)
    theirs, report = getattr(transformers, head).from_pretrained(folder, output_loading_info=True)
    torch.manual_seed(1)
    ours = getattr(modeling, head).from_pretrained(folder, new_head=True)
    assert set(ours.origin.new_weights) == set(report["missing_keys"]) - {DECODER}
    assert len(ours.origin.new_weights) >= 2
    same(ours.distilbert, base, "DistilBertModel")
    reference = theirs.state_dict()
    for name in ours.origin.new_weights:
        weight = ours.state_dict()[name]
        assert weight.shape == reference[name].shape
        if weight.dim() == 1:
            assert torch.equal(weight, reference[name])  # zeros, or ones in a norm
        else:
            slack = 5 / weight.numel() ** 0.5
            assert weight.std().item() == pytest.approx(0.05, rel=slack)
            assert reference[name].std().item() == pytest.approx(0.05, rel=slack)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_checkpoint_gives_its_encoder_and_says_what_it_left(tmp_path, head):
    model = make(head)
    folder = write(tmp_path, model)
    ours = DistilBertModel.from_pretrained(folder)
    _, report = transformers.DistilBertModel.from_pretrained(folder, output_loading_info=True)
    assert set(ours.origin.unused_weights) == set(report["unexpected_keys"])
    assert set(ours.origin.unused_weights) == {name for name in published(model) if not name.startswith("distilbert.")}
    same(ours, model.distilbert, "DistilBertModel")


def test_another_head_is_left_out_on_request_and_named(tmp_path):
    folder = write(tmp_path, make("DistilBertForMaskedLM"))
    ours = DistilBertForSequenceClassification.from_pretrained(folder, new_head=True)
    theirs = transformers.DistilBertForSequenceClassification
    _, report = theirs.from_pretrained(folder, output_loading_info=True)
    assert set(ours.origin.new_weights) == set(report["missing_keys"])
    assert set(ours.origin.unused_weights) == set(report["unexpected_keys"])


def test_new_weights_have_the_type_and_place_asked_for(tmp_path):
    folder = write(tmp_path, make("DistilBertModel"))
    ours = DistilBertForSequenceClassification.from_pretrained(folder, new_head=True, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_weights_are_read_from_every_form(tmp_path, form, stored):
    model = make("DistilBertForMaskedLM")
    folder = write(tmp_path, model, form, tensors={k: v.to(stored) for k, v in model.state_dict().items()})
    ours = load(folder, allow_pickle=True)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    same(ours, model.to(stored).float(), "DistilBertForMaskedLM")


@pytest.mark.parametrize("form", FORMS)
def test_names_of_older_releases_are_understood(tmp_path, form):
    model = make("DistilBertForMaskedLM")
    tensors = {
        name.replace(".weight", ".gamma").replace(".bias", ".beta") if "norm" in name.lower() else name: tensor
        for name, tensor in model.state_dict().items()
    }
    assert sum(name.endswith(".gamma") for name in tensors) == 6
    tensors["distilbert.embeddings.position_ids"] = torch.arange(16)[None]
    folder = write(tmp_path, model, form, tensors=tensors)
    ours = load(folder, allow_pickle=True)
    same(ours, model, "DistilBertForMaskedLM")
    assert ours.origin.unused_weights == ()
    same(DistilBertModel.from_pretrained(folder, allow_pickle=True), model.distilbert, "DistilBertModel")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kept", [WORDS, DECODER, "both"])
def test_a_tied_decoder_is_found_under_either_name_or_both(tmp_path, form, kept):
    model = make("DistilBertForMaskedLM")
    tensors = dict(model.state_dict())
    if kept != "both":
        del tensors[DECODER if kept == WORDS else WORDS]
    ours = DistilBertForMaskedLM.from_pretrained(write(tmp_path, model, form, tensors=tensors), allow_pickle=True)
    same(ours, model, "DistilBertForMaskedLM")
    assert ours.vocab_projector.weight is ours.get_input_embeddings().weight


@pytest.mark.parametrize("prefix", ["", "distilbert."])
def test_a_pooler_is_refused_by_a_head_unless_it_may_be_left_out(tmp_path, prefix):
    model = make("DistilBertForSequenceClassification")
    pooler = {f"{prefix}pooler.dense.weight": torch.ones(8, 8), f"{prefix}pooler.dense.bias": torch.ones(8)}
    folder = write(tmp_path, model, tensors={**published(model), **pooler})
    message = (
        r"do not fit DistilBertForSequenceClassification; found 2 unexpected: pooler.dense.bias, pooler.dense.weight; "
        r"DistilBERT computes nothing with them: load .*, or leave them out with new_head=True"
    )
    with pytest.raises(CheckpointError, match=message):
        load(folder)
    left = ("pooler.dense.bias", "pooler.dense.weight")
    ours = DistilBertForSequenceClassification.from_pretrained(folder, new_head=True)
    assert (ours.origin.new_weights, ours.origin.unused_weights) == ((), left)
    same(ours, model, "DistilBertForSequenceClassification")
    base = DistilBertModel.from_pretrained(folder)
    assert set(left) < set(base.origin.unused_weights)


def test_an_unknown_part_of_the_encoder_is_never_left_out(tmp_path):
    model = make("DistilBertForSequenceClassification")
    folder = write(tmp_path, model, tensors={**published(model), "distilbert.adapter.weight": torch.ones(1)})
    for reader in (DistilBertModel, DistilBertForSequenceClassification):
        with pytest.raises(CheckpointError, match=r"1 unexpected: (distilbert\.)?adapter.weight; fetch"):
            reader.from_pretrained(folder, new_head=True)


def test_a_save_that_fails_leaves_no_new_folder_and_the_old_one_whole(tmp_path):
    model = load(write(tmp_path / "source", make("DistilBertForSequenceClassification")))
    model.save_pretrained(tmp_path / "deep" / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "deep" / "old").iterdir()}
    model.config = DistilBertConfig.from_dict({**SIZES, "activation": abs})
    for name in ("new", "old"):
        with pytest.raises(ConfigError, match="activation is a function and cannot be saved"):
            model.save_pretrained(tmp_path / "deep" / name)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["old"]
    after = {path.name: path.read_bytes() for path in (tmp_path / "deep" / "old").iterdir() if path.name in before}
    assert after == before
    assert load_file(tmp_path / "deep" / "old" / "model.safetensors").keys() == model.state_dict().keys()
