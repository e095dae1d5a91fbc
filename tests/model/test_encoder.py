"""The encoder: packed equals padded, chosen rows equal all rows, refusals name the argument."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distilbatch.errors import ConfigError
from distilbatch.model.attention import sdpa_attention
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.modeling import (
    DistilBertForMaskedLM,
    DistilBertForMultipleChoice,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
)
from distilbatch.model.packed import PackedTokens

LENGTHS = [3, 3, 1, 16, 7, 7, 7, 2]


@pytest.fixture
def documents() -> list[Tensor]:
    torch.manual_seed(5)
    return list(torch.randint(40, (sum(LENGTHS),)).split(LENGTHS))


@pytest.fixture
def packed(documents: list[Tensor]) -> PackedTokens:
    return PackedTokens.from_lengths(torch.cat(documents), LENGTHS)


def build(cls, config, **options):
    torch.manual_seed(6)
    return cls(config, **options).eval()


def test_packed_states_equal_each_document_alone(tiny_config, documents, packed):
    model = build(DistilBertModel, tiny_config)
    alone = torch.cat([model(document[None]).last_hidden_state[0] for document in documents])
    torch.testing.assert_close(model.forward_packed(packed), alone, atol=2e-6, rtol=0)


def test_int32_ids_are_as_good_as_int64(tiny_config, packed):
    model = build(DistilBertModel, tiny_config)
    small = PackedTokens(packed.input_ids.int(), packed.position_ids.int(), packed.runs)
    assert torch.equal(model.forward_packed(small), model.forward_packed(packed))


def test_chosen_rows_equal_those_rows_of_all(tiny_config, packed):
    model = build(DistilBertModel, tiny_config)
    everything = model.forward_packed(packed)
    for count in (0, 1, 5, sum(LENGTHS)):
        rows = torch.randperm(sum(LENGTHS))[:count].sort().values
        torch.testing.assert_close(model.forward_packed(packed, rows), everything[rows], atol=2e-6, rtol=0)


def test_first_rows_equal_the_first_of_all(tiny_config, packed):
    model = build(DistilBertModel, tiny_config)
    starts = torch.tensor([0, *LENGTHS[:-1]]).cumsum(0)
    torch.testing.assert_close(
        model.forward_packed(packed, "first"), model.forward_packed(packed)[starts], atol=2e-6, rtol=0
    )


def test_the_last_layer_computes_the_chosen_rows_only(tiny_config, packed):
    model = build(DistilBertForSequenceClassification, tiny_config)
    seen = []
    for block in model.encoder.transformer.layer:
        block.ffn.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    assert model.forward_packed(packed).shape == (len(LENGTHS), 3)
    assert seen == [sum(LENGTHS), len(LENGTHS)]


def test_gradients_of_the_first_rows_equal_those_through_all(tiny_config, packed):
    grads = []
    for rows in ("first", None):
        model = build(DistilBertModel, tiny_config)
        states = model.forward_packed(packed, rows)
        starts = torch.tensor([0, *LENGTHS[:-1]]).cumsum(0)
        (states if rows else states[starts]).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for first, full in zip(*grads, strict=True):
        torch.testing.assert_close(first, full, atol=1e-5, rtol=1e-4)


def test_packed_heads_equal_padded_heads(tiny_config, documents, packed):
    two_labels = DistilBertConfig.from_dict({**tiny_config.to_dict(), "id2label": None, "label2id": None})
    ids = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(d)) for d in documents], batch_first=True)
    keep = mask.bool()
    for cls in (DistilBertForTokenClassification, DistilBertForMaskedLM):
        model = build(cls, tiny_config)
        torch.testing.assert_close(model.forward_packed(packed), model(ids, mask).logits[keep], atol=5e-6, rtol=0)
        rows = torch.tensor([2, 3, 20])
        torch.testing.assert_close(
            model.forward_packed(packed, rows), model(ids, mask).logits[keep][rows], atol=5e-6, rtol=0
        )
    answers = build(DistilBertForQuestionAnswering, two_labels)
    padded = answers(ids, mask)
    scores = torch.stack([padded.start_logits[keep], padded.end_logits[keep]], 1)
    torch.testing.assert_close(answers.forward_packed(packed), scores, atol=5e-6, rtol=0)
    choices = build(DistilBertForMultipleChoice, tiny_config)
    grouped = choices(ids.view(4, 2, -1), mask.view(4, 2, -1)).logits
    torch.testing.assert_close(choices.forward_packed(packed, num_choices=2), grouped, atol=5e-6, rtol=0)


def test_no_documents_give_no_logits(tiny_config):
    model = build(DistilBertForSequenceClassification, tiny_config)
    nothing = PackedTokens.from_lengths(torch.empty(0, dtype=torch.int64), [])
    assert model.forward_packed(nothing).shape == (0, 3)


def test_packed_attention_pads_with_zeros(tiny_config):
    model = build(DistilBertModel, tiny_config, attn_implementation="packed")
    out = model(torch.ones(2, 5, dtype=torch.int64), torch.tensor([[1, 0, 1, 1, 0], [0, 0, 1, 1, 1]]))
    assert out.last_hidden_state[0, [1, 4]].abs().sum() == 0
    assert out.last_hidden_state[1, :2].abs().sum() == 0
    assert out.last_hidden_state[1, 2:].abs().min() > 0


def test_masked_tokens_cost_nothing_when_packed(tiny_config):
    model = build(DistilBertModel, tiny_config, attn_implementation="packed")
    seen = []
    model.transformer.layer[0].attention.q_lin.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    model(torch.ones(3, 8, dtype=torch.int64), (torch.arange(8) < torch.tensor([[1], [8], [4]])).int())
    assert seen == [13]


def test_a_backend_may_replace_attention_and_layers(tiny_config, packed):
    model = build(DistilBertForSequenceClassification, tiny_config)
    before = model.forward_packed(packed)
    calls = []

    def attend(q, k, v, *, layout, n_heads, dropout_p):
        calls.append((len(q), len(k), layout.runs[0]))
        return sdpa_attention(q, k, v, layout=layout, n_heads=n_heads, dropout_p=dropout_p)

    class FusedAttention(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.weight = torch.cat([inner.q_lin.weight, inner.k_lin.weight, inner.v_lin.weight])
            self.bias = torch.cat([inner.q_lin.bias, inner.k_lin.bias, inner.v_lin.bias])
            self.out_lin, self.n_heads = inner.out_lin, inner.n_heads

        def forward(self, queries, hidden, layout):
            assert queries is hidden
            q, k, v = torch.nn.functional.linear(hidden, self.weight, self.bias).chunk(3, dim=1)  # strided rows
            context, weights = attend(q, k, v, layout=layout, n_heads=self.n_heads, dropout_p=0.0)
            return self.out_lin(context), weights

    first, last = model.encoder.transformer.layer
    first.attention = FusedAttention(first.attention)
    last.attention.attend = attend
    torch.testing.assert_close(model.forward_packed(packed), before, atol=2e-6, rtol=0)
    assert calls == [(46, 46, (2, 3, 3)), (8, 46, (2, 1, 3))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of input_ids and inputs_embeds; found neither"),
        ({"input_ids": torch.ones(1, 2).long(), "inputs_embeds": torch.ones(1, 2, 8)}, "found both"),
        ({"input_ids": torch.ones(4).long()}, r"input_ids, integers of shape \(B, S\).*found int64 of shape \(4,\)"),
        (
            {"inputs_embeds": torch.ones(4, 8)},
            r"inputs_embeds, floats of shape \(B, S, H\); found float32 of shape \(4, 8\)",
        ),
        ({"input_ids": torch.ones(2, 3)}, r"found float32 of shape \(2, 3\)"),
        (
            {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.ones(2, 4)},
            r"forward: attention_mask; expected the shape \(2, 3\); found \(2, 4\)",
        ),
        (
            {"input_ids": torch.ones(2, 3).long(), "position_ids": torch.ones(3, 3).long()},
            r"forward: position_ids; expected the shape \(2, 3\) or \(1, 3\); found \(3, 3\)",
        ),
        (
            {"input_ids": torch.ones(2, 17).long()},
            r"expected at most 16 tokens \(max_position_embeddings\); found 17 tokens; truncate it",
        ),
        (
            {"input_ids": torch.ones(2, 3).long(), "output_attentions": True},
            "output_attentions; expected attn_implementation eager; found sdpa; load the model",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(tiny_config, arguments, message):
    with pytest.raises(ConfigError, match=message):
        build(DistilBertModel, tiny_config)(**arguments)


def test_a_packed_document_that_is_too_long_is_refused(tiny_config):
    packed = PackedTokens.from_lengths(torch.zeros(20, dtype=torch.int64), [3, 17])
    with pytest.raises(ConfigError, match="expected at most 16 tokens"):
        build(DistilBertForSequenceClassification, tiny_config).forward_packed(packed)


def test_an_unknown_attention_is_refused(tiny_config):
    with pytest.raises(ConfigError, match="attn_implementation; expected one of eager, sdpa, packed; found 'flash'"):
        DistilBertModel(tiny_config, attn_implementation="flash")


def test_outputs_read_by_name_place_and_as_tuples(tiny_config):
    model = build(DistilBertForSequenceClassification, tiny_config)
    ids = torch.ones(2, 3, dtype=torch.int64)
    out = model(ids, labels=torch.tensor([0, 1]), output_hidden_states=True)
    assert out[0] is out.loss is out["loss"]
    assert out[1] is out.logits
    assert len(out) == len(out.to_tuple()) == 3
    with pytest.raises(KeyError, match="attentions"):
        out["attentions"]
    assert out.keys() == list(dict(out)) == ["loss", "logits", "hidden_states"]
    assert [value for _, value in out.items()] == [*out.to_tuple()]
    assert ("loss" in out, "attentions" in out, "logit" in out) == (True, False, False)
    assert (out.get("logits") is out.logits, out.get("attentions"), out.get("attentions", 5)) == (True, None, 5)
    assert "loss" not in model(ids)
    plain = model(ids, return_dict=False)
    assert isinstance(plain, tuple)
    assert torch.equal(plain[0], model(ids).logits)


def test_the_config_sets_the_defaults_of_forward(tiny_config):
    config = DistilBertConfig.from_dict(
        {**tiny_config.to_dict(), "return_dict": False, "output_hidden_states": True, "output_attentions": True}
    )
    model = build(DistilBertModel, config, attn_implementation="eager")
    last, hidden, attentions = model(torch.ones(1, 2, dtype=torch.int64))
    assert (last.shape, len(hidden), len(attentions)) == ((1, 2, 8), 3, 2)


@pytest.mark.parametrize("attention", ["sdpa", "packed"])
def test_attentions_that_only_the_config_asks_for_are_left_out_where_there_are_none(tiny_config, attention):
    # As in the reference; to ask by the argument is an error.
    config = DistilBertConfig.from_dict({**tiny_config.to_dict(), "output_attentions": True})
    model = build(DistilBertModel, config, attn_implementation=attention)
    assert model(torch.ones(1, 2, dtype=torch.int64)).attentions is None


def test_dropout_acts_in_training_only(tiny_config):
    model = build(DistilBertForSequenceClassification, tiny_config)
    ids = torch.ones(2, 6, dtype=torch.int64)
    assert torch.equal(model(ids).logits, model(ids).logits)
    for attention in ("eager", "sdpa", "packed"):
        model.train()
        model.encoder.set_attention(attention)
        assert not torch.equal(model(ids).logits, model(ids).logits)


def test_attention_dropout_acts_alone(tiny_config):
    values = {**tiny_config.to_dict(), "dropout": 0.0, "seq_classif_dropout": 0.0, "attention_dropout": 0.9}
    model = build(DistilBertForSequenceClassification, DistilBertConfig.from_dict(values)).train()
    ids = torch.arange(12).view(2, 6)
    for attention in ("eager", "sdpa", "packed"):
        model.encoder.set_attention(attention)
        assert not torch.equal(model(ids).logits, model(ids).logits)


def test_fresh_weights_follow_the_config():
    config = DistilBertConfig(vocab_size=500, n_layers=1, dim=64, n_heads=2, hidden_dim=128, initializer_range=0.1)
    model = DistilBertForSequenceClassification(config)
    words = model.get_input_embeddings().weight
    assert words[0].abs().sum() == 0  # padding
    assert words[1:].std().item() == pytest.approx(0.1, rel=0.05)
    assert model.pre_classifier.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert model.classifier.bias.abs().sum() == 0
    norm = model.encoder.transformer.layer[0].sa_layer_norm
    assert (norm.weight == 1).all()
    assert norm.eps == 1e-12


def test_sinusoidal_positions_are_not_trained():
    config = DistilBertConfig(vocab_size=9, n_layers=1, dim=4, n_heads=1, hidden_dim=4, sinusoidal_pos_embds=True)
    weight = DistilBertModel(config).get_position_embeddings().weight
    assert not weight.requires_grad
    expected = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.841471, 0.540302, 0.00999983, 0.99995]])
    torch.testing.assert_close(weight[:2], expected, atol=1e-6, rtol=0)


def test_an_activation_may_be_a_function(packed):
    def double(x):
        return 2 * x

    config = DistilBertConfig(vocab_size=40, n_layers=1, dim=4, n_heads=1, hidden_dim=4, activation=double)
    assert DistilBertModel(config).encoder.transformer.layer[0].ffn.activation is double


def test_question_answering_wants_two_labels(tiny_config):
    with pytest.raises(ConfigError, match="num_labels of question answering; expected 2, start and end; found 3"):
        DistilBertForQuestionAnswering(tiny_config)
