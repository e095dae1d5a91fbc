"""Resizing: old rows are kept, new ones are drawn or computed, and the whole model follows."""

from __future__ import annotations

import pytest
import torch

from distilbatch.errors import ConfigError
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.modeling import DistilBertForMaskedLM, DistilBertForSequenceClassification, DistilBertModel

IDS = torch.arange(12).view(2, 6)


@pytest.mark.parametrize("size", [30, 40, 55])
@pytest.mark.parametrize("tied", [True, False])
def test_words_are_kept_and_added(tiny_config, size, tied):
    config = DistilBertConfig.from_dict({**tiny_config.to_dict(), "tie_word_embeddings": tied})
    model = DistilBertForMaskedLM(config).eval()
    with torch.no_grad():
        model.vocab_projector.bias.copy_(torch.randn(40))
    before = model(IDS).logits
    embedding = model.resize_token_embeddings(size)
    after = model(IDS).logits
    kept = min(size, 40)
    assert (embedding.num_embeddings, model.config.vocab_size, model.distilbert.config.vocab_size) == (size,) * 3
    assert after.shape == (2, 6, size)
    torch.testing.assert_close(after[..., :kept], before[..., :kept], atol=1e-6, rtol=1e-6)
    assert (model.vocab_projector.weight is embedding.weight) == tied
    if size > 40:
        assert embedding.weight[40:].std().item() == pytest.approx(0.3, rel=0.2)
        assert model.vocab_projector.bias[40:].abs().sum() == 0


def test_a_resized_model_saves_and_loads(tiny_config, tmp_path):
    model = DistilBertForMaskedLM(tiny_config).eval()
    model.resize_token_embeddings(48)
    model.resize_position_embeddings(20)
    model.save_pretrained(tmp_path)
    again = DistilBertForMaskedLM.from_pretrained(tmp_path)
    ids = torch.arange(20)[None]
    assert torch.equal(again(ids).logits, model(ids).logits)


@pytest.mark.parametrize("size", [8, 16, 24])
def test_learned_positions_are_kept_and_added(tiny_config, size):
    model = DistilBertForSequenceClassification(tiny_config).eval()
    before, logits = model.get_position_embeddings().weight.clone(), model(IDS).logits
    model.resize_position_embeddings(size)
    after = model.get_position_embeddings().weight
    assert (len(after), model.config.max_position_embeddings) == (size, size)
    assert torch.equal(after[:8], before[:8])
    assert torch.equal(model(IDS).logits, logits)
    assert after.requires_grad


def test_sinusoidal_positions_are_computed(tiny_config):
    values = {**tiny_config.to_dict(), "sinusoidal_pos_embds": True}
    model = DistilBertModel(DistilBertConfig.from_dict(values))
    model.resize_position_embeddings(50)
    longer = DistilBertModel(DistilBertConfig.from_dict({**values, "max_position_embeddings": 50}))
    assert torch.equal(model.get_position_embeddings().weight, longer.get_position_embeddings().weight)
    assert not model.get_position_embeddings().weight.requires_grad


def test_a_new_word_embedding_brings_its_vocabulary(tiny_config):
    model = DistilBertForMaskedLM(tiny_config)
    embedding = torch.nn.Embedding(60, 8)
    model.set_input_embeddings(embedding)
    assert model.get_input_embeddings() is embedding
    assert model.get_output_embeddings().weight is embedding.weight
    assert model(IDS + 45).logits.shape == (2, 6, 60)


@pytest.mark.parametrize(
    ("resize", "message"),
    [
        (lambda model: model.resize_token_embeddings(0), "vocab_size; expected an integer"),
        (lambda model: model.resize_token_embeddings(10**9), "vocab_size; expected an integer"),
        (lambda model: model.resize_position_embeddings(10**9), "max_position_embeddings; expected an integer"),
    ],
)
def test_impossible_sizes_are_refused_and_change_nothing(tiny_config, resize, message):
    model = DistilBertModel(tiny_config)
    with pytest.raises(ConfigError, match=message):
        resize(model)
    assert model.config == tiny_config
    assert model(IDS).last_hidden_state.shape == (2, 6, 8)
