"""Checkpoint folders: every form the reference writes is read, every defect is refused with its name and a remedy."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from distilbatch.errors import CheckpointError
from distilbatch.model.auto import load
from distilbatch.model.checkpoint import read_checkpoint
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.modeling import (
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
)

CLASSIFIER = DistilBertForSequenceClassification
IDS = torch.arange(12).view(2, 6)
HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForMaskedLM", "ForMultipleChoice")


def rewrite(folder, change) -> None:
    """Apply ``change`` to the tensors of a folder."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", HEADS)
def test_what_we_save_the_reference_loads_and_back(tiny_checkpoint, tmp_path, kind):
    folder = tiny_checkpoint(kind)
    ours = load(folder)
    ids = IDS[None] if kind == "ForMultipleChoice" else IDS
    theirs = getattr(transformers, f"DistilBert{kind}").from_pretrained(folder)
    torch.testing.assert_close(ours(ids)[0], theirs(ids)[0], atol=1e-5, rtol=0)
    theirs.save_pretrained(tmp_path / "back", max_shard_size="4KB" if kind == "ForMaskedLM" else "1GB")
    again = load(tmp_path / "back")
    assert type(again) is type(ours)
    assert torch.equal(again(ids)[0], ours(ids)[0])


def test_question_answering_round_trip(tiny_config, tmp_path):
    values = {**tiny_config.to_dict(), "id2label": None, "label2id": None}
    DistilBertForQuestionAnswering(DistilBertConfig.from_dict(values)).save_pretrained(tmp_path)
    assert isinstance(load(tmp_path), DistilBertForQuestionAnswering)


def test_a_loaded_model_is_in_evaluation_mode_and_float32(tiny_checkpoint):
    model = CLASSIFIER.from_pretrained(tiny_checkpoint())
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_cast_to_the_type_asked_for(tiny_checkpoint, stored):
    folder = tiny_checkpoint()
    rewrite(folder, lambda tensors: tensors.update({name: t.to(stored) for name, t in tensors.items()}))
    for asked in (None, torch.float32, torch.bfloat16):
        model = CLASSIFIER.from_pretrained(folder, dtype=asked)
        assert {p.dtype for p in model.parameters()} == {asked or torch.float32}


@pytest.mark.parametrize("prefixed", [True, False])
def test_the_prefix_may_be_there_or_not(tiny_checkpoint, prefixed):
    folder = tiny_checkpoint("Model" if prefixed else "ForSequenceClassification")
    reader = DistilBertModel if prefixed else CLASSIFIER
    expected = reader.from_pretrained(folder)(IDS)[0]

    def rename(tensors):
        for name in list(tensors):
            if prefixed:
                tensors[f"distilbert.{name}"] = tensors.pop(name)
            elif name.startswith("distilbert."):
                tensors[name.removeprefix("distilbert.")] = tensors.pop(name)

    rewrite(folder, rename)
    assert torch.equal(reader.from_pretrained(folder)(IDS)[0], expected)


def test_every_misfit_is_in_one_error(tiny_checkpoint):
    folder = tiny_checkpoint()

    def damage(tensors):
        del tensors["distilbert.transformer.layer.0.ffn.lin1.bias"]
        tensors["distilbert.transformer.layer.2.ffn.lin1.bias"] = torch.zeros(12)
        tensors["classifier.weight"] = torch.zeros(4, 8)
        tensors["pre_classifier.bias"][3] = float("nan")
        tensors["pre_classifier.weight"][0, 0] = float("inf")
        tensors["distilbert.embeddings.LayerNorm.bias"] = torch.zeros(8, dtype=torch.int8)

    rewrite(folder, damage)
    with pytest.raises(CheckpointError) as error:
        CLASSIFIER.from_pretrained(folder)
    text = str(error.value)
    assert text.startswith(f"checkpoint {folder}: its tensors do not fit DistilBertForSequenceClassification; found ")
    assert "1 missing: distilbert.transformer.layer.0.ffn.lin1.bias" in text
    assert "1 unexpected: distilbert.transformer.layer.2.ffn.lin1.bias" in text
    assert "1 of another shape: classifier.weight [4, 8] in place of [3, 8]" in text
    assert "2 with NaN or infinity: pre_classifier.bias, pre_classifier.weight" in text
    assert "1 not floating point: distilbert.embeddings.LayerNorm.bias int8" in text
    assert text.endswith("fetch the checkpoint again, or correct its config.json")


def test_many_names_are_shortened(tiny_checkpoint):
    folder = tiny_checkpoint()
    rewrite(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "layer.1" in name])
    with pytest.raises(CheckpointError, match=r"16 missing: (distilbert\.\S+, ){4}distilbert\.\S+ and 11 more"):
        CLASSIFIER.from_pretrained(folder)


def test_a_weight_too_large_for_float16_is_found_after_the_cast(tiny_checkpoint):
    folder = tiny_checkpoint()
    rewrite(folder, lambda tensors: tensors["classifier.bias"].fill_(1e6))
    assert CLASSIFIER.from_pretrained(folder).classifier.bias[0] == 1e6
    with pytest.raises(CheckpointError, match=r"1 with NaN or infinity: classifier.bias"):
        CLASSIFIER.from_pretrained(folder, dtype=torch.float16)


def test_a_checkpoint_without_the_head_is_refused_unless_a_new_one_is_wanted(tiny_checkpoint):
    folder = tiny_checkpoint("Model")
    with pytest.raises(
        CheckpointError,
        match=r"4 missing: classifier.bias, classifier.weight, pre_classifier.bias, pre_classifier.weight; "
        r"this checkpoint has no such head.*new_head=True",
    ):
        CLASSIFIER.from_pretrained(folder)
    model = CLASSIFIER.from_pretrained(folder, new_head=True)
    encoder = DistilBertModel.from_pretrained(folder)
    assert torch.equal(model.distilbert(IDS).last_hidden_state, encoder(IDS).last_hidden_state)
    assert model.classifier.weight.abs().sum() > 0
    assert model.classifier.bias.abs().sum() == 0


def test_a_new_head_does_not_excuse_an_incomplete_encoder(tiny_checkpoint):
    folder = tiny_checkpoint("ForMaskedLM")
    assert isinstance(DistilBertForTokenClassification.from_pretrained(folder, new_head=True), torch.nn.Module)
    rewrite(folder, lambda tensors: tensors.pop("distilbert.embeddings.LayerNorm.bias"))
    with pytest.raises(CheckpointError, match=r"1 missing: distilbert.embeddings.LayerNorm.bias; fetch"):
        DistilBertForTokenClassification.from_pretrained(folder, new_head=True)


def test_another_head_is_unexpected(tiny_checkpoint):
    with pytest.raises(CheckpointError, match=r"missing: qa_outputs.bias|do not fit DistilBertForTokenClassification"):
        DistilBertForTokenClassification.from_pretrained(tiny_checkpoint("ForSequenceClassification"))


def test_a_tied_decoder_may_be_stored_under_either_name(tiny_checkpoint):
    folder = tiny_checkpoint("ForMaskedLM")
    words, decoder = "distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"
    expected = DistilBertForMaskedLM.from_pretrained(folder)(IDS).logits
    assert decoder not in load_file(folder / "model.safetensors")
    rewrite(folder, lambda tensors: tensors.update({decoder: tensors[words].clone()}))
    assert torch.equal(DistilBertForMaskedLM.from_pretrained(folder)(IDS).logits, expected)
    rewrite(folder, lambda tensors: tensors.pop(words))
    model = DistilBertForMaskedLM.from_pretrained(folder)
    assert torch.equal(model(IDS).logits, expected)
    assert model.vocab_projector.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("saved_by", ["ours", "theirs"])
def test_a_decoder_that_was_replaced_is_kept_although_the_config_ties_it(tiny_checkpoint, tmp_path, saved_by):
    folder = tiny_checkpoint("ForMaskedLM")
    reader = DistilBertForMaskedLM if saved_by == "ours" else transformers.DistilBertForMaskedLM
    model = reader.from_pretrained(folder).eval()
    model.set_output_embeddings(torch.nn.Linear(8, 40))
    expected = model(IDS).logits
    model.save_pretrained(tmp_path / "own")
    again = DistilBertForMaskedLM.from_pretrained(tmp_path / "own")
    for found in (again, transformers.DistilBertForMaskedLM.from_pretrained(tmp_path / "own").eval()):
        torch.testing.assert_close(found(IDS).logits, expected, atol=1e-5, rtol=0)
        assert found.vocab_projector.weight is not found.get_input_embeddings().weight
    assert again.config.tie_word_embeddings is False
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(DistilBertForMaskedLM.from_pretrained(tmp_path / "again")(IDS).logits, again(IDS).logits)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize(("stored", "written"), [("float16", torch.float32), ("float32", torch.float16)])
def test_the_config_names_the_type_that_is_written(tiny_checkpoint, tmp_path, key, stored, written):
    folder = tiny_checkpoint()
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, key: stored}))
    CLASSIFIER.from_pretrained(folder, dtype=written).save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())[key] == str(written).removeprefix("torch.")
    assert transformers.DistilBertForSequenceClassification.from_pretrained(tmp_path / "again").dtype == written


@pytest.mark.parametrize(
    ("labels", "problem"),
    [([1, 0], "single_label_classification"), ([[1.0, 0, 1], [0, 1, 0]], "multi_label_classification")],
)
def test_what_the_first_labels_are_is_noted_and_saved_as_by_the_reference(tiny_checkpoint, tmp_path, labels, problem):
    folder = tiny_checkpoint()
    for number, reader in enumerate((CLASSIFIER, transformers.DistilBertForSequenceClassification)):
        model = reader.from_pretrained(folder)
        model(IDS)
        assert model.config.problem_type is None
        model(IDS, labels=torch.tensor(labels))
        model.save_pretrained(tmp_path / str(number))
        assert json.loads((tmp_path / str(number) / "config.json").read_text())["problem_type"] == problem
    assert CLASSIFIER.from_pretrained(tmp_path / "0").config.problem_type == problem


def test_an_untied_decoder_has_its_own_weight(tiny_config, tmp_path):
    config = DistilBertConfig.from_dict({**tiny_config.to_dict(), "tie_word_embeddings": False})
    model = DistilBertForMaskedLM(config).eval()
    model.save_pretrained(tmp_path)
    again = DistilBertForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert again.vocab_projector.weight is not again.get_input_embeddings().weight


def test_a_config_that_promises_more_than_the_file_holds_allocates_nothing(tiny_checkpoint):
    folder = tiny_checkpoint()
    values = json.loads((folder / "config.json").read_text())
    values |= {"dim": 16384, "n_layers": 128, "hidden_dim": 131072, "vocab_size": 5_000_000}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"missing: .* of another shape: .* in place of"):
        CLASSIFIER.from_pretrained(folder)


def refuse(folder, message) -> None:
    for reader in (CLASSIFIER.from_pretrained, load):
        with pytest.raises(CheckpointError, match=message):
            reader(folder)


def test_a_missing_folder_is_refused(tmp_path):
    refuse(tmp_path / "nowhere", "nowhere; expected a folder with config.json .* found nothing there; check the path")
    (tmp_path / "file").touch()
    refuse(tmp_path / "file", "found a file")


def test_a_folder_without_config_is_refused(tiny_checkpoint):
    folder = tiny_checkpoint()
    (folder / "config.json").unlink()
    refuse(folder, "config.json: no such file; point at a complete checkpoint folder")


def test_a_folder_without_weights_is_refused(tiny_checkpoint):
    folder = tiny_checkpoint()
    (folder / "model.safetensors").unlink()
    refuse(folder, "no weights; expected model.safetensors or model.safetensors.index.json; found config.json; fetch")


@pytest.mark.parametrize("content", [b"", b"\x00" * 4, b"\xff" * 64, b'\x08\x00\x00\x00\x00\x00\x00\x00{"a": 1}'])
def test_a_damaged_weights_file_is_refused(tiny_checkpoint, content):
    folder = tiny_checkpoint()
    (folder / "model.safetensors").write_bytes(content)
    refuse(folder, "model.safetensors: cannot be read as safetensors; .*fetch the checkpoint again")


def test_a_truncated_weights_file_is_refused(tiny_checkpoint):
    folder = tiny_checkpoint()
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-10])
    refuse(folder, "cannot be read as safetensors")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/model.safetensors", "sub/m.safetensors", "m.bin", 3])
def test_an_index_must_not_leave_its_folder(tiny_checkpoint, name):
    folder = tiny_checkpoint()
    shutil.move(folder / "model.safetensors", folder.parent / "model.safetensors")
    index = {"weight_map": {"classifier.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse(folder, "file of classifier.weight; expected a safetensors file in the same folder; .*do not use")


def test_an_index_that_names_what_is_not_there_is_refused(tiny_checkpoint):
    folder = tiny_checkpoint()
    index = folder / "model.safetensors.index.json"
    shutil.move(folder / "model.safetensors", folder / "m.safetensors")
    index.write_text(json.dumps({"weight_map": {"classifier.weights": "m.safetensors"}}))
    refuse(folder, "names tensors its files lack; found classifier.weights of m.safetensors")
    index.write_text(json.dumps({"weight_map": {"classifier.weight": "gone.safetensors"}}))
    refuse(folder, "gone.safetensors: cannot be read as safetensors")
    index.write_text("{}")
    refuse(folder, "weight_map; expected tensor names and their files; found NoneType")


def test_two_names_of_one_tensor_are_refused(tiny_checkpoint):
    folder = tiny_checkpoint()
    rewrite(folder, lambda tensors: tensors.update({"distilbert.embeddings.LayerNorm.gamma": torch.ones(8)}))
    refuse(folder, "two tensors are distilbert.embeddings.LayerNorm.weight")


def test_a_name_with_and_without_prefix_is_refused(tiny_checkpoint):
    rewrite(folder := tiny_checkpoint(), lambda tensors: tensors.update({"embeddings.LayerNorm.weight": torch.ones(8)}))
    refuse(folder, "1 unexpected: .*embeddings.LayerNorm.weight")


def test_reading_names_and_shapes_reads_no_weight(tiny_checkpoint):
    found = read_checkpoint(tiny_checkpoint())
    assert found.entries["classifier.weight"].shape == (3, 8)
    assert found.config.labels == ("no", "yes", "maybe")


def test_a_loaded_model_does_not_change_with_its_file(tiny_checkpoint):
    folder = tiny_checkpoint()
    model = CLASSIFIER.from_pretrained(folder)
    before = model(IDS).logits
    with (folder / "model.safetensors").open("r+b") as file:  # in place, as a careless copy over it would
        file.seek(-400, 2)
        file.write(b"\x00" * 400)
    assert torch.equal(model(IDS).logits, before)


def test_saving_replaces_a_checkpoint_and_leaves_no_temporary(tiny_checkpoint):
    folder = tiny_checkpoint()
    model = CLASSIFIER.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.bias.fill_(7)
    model.save_pretrained(folder)
    assert CLASSIFIER.from_pretrained(folder).classifier.bias.tolist() == [7, 7, 7]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert DistilBertConfig.from_file(folder / "config.json").architectures == ("DistilBertForSequenceClassification",)


def test_saving_where_nothing_can_be_written_is_refused(tiny_checkpoint, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot be written; found .*file"):
        CLASSIFIER.from_pretrained(tiny_checkpoint()).save_pretrained(tmp_path / "file")


def test_load_wants_an_architecture_it_knows(tiny_checkpoint):
    folder = tiny_checkpoint()
    values = json.loads((folder / "config.json").read_text())
    for found in ([], ["BertModel"]):
        (folder / "config.json").write_text(json.dumps({**values, "architectures": found}))
        with pytest.raises(CheckpointError, match=r"architectures; expected one of DistilBertModel, .*load it through"):
            load(folder)
