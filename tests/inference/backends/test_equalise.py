"""Equalised channels: exact before rounding, near after it, and found without any text."""

from __future__ import annotations

import copy

import pytest
import torch
from model_weights import draw_biases
from torch import nn

from distilbatch.inference.backends import operators
from distilbatch.inference.backends.equalise import Channels, observe_channels
from distilbatch.inference.backends.linears import Int8Linear
from distilbatch.inference.backends.onednn import OneDnnBackend
from distilbatch.inference.backends.operators import NOTHING, PostOp
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.modeling import DistilBertForSequenceClassification
from distilbatch.model.packed import PackedTokens

needs_int8 = pytest.mark.skipif(not operators.int8_sums(), reason="torch has no int8 kernels for this CPU")


def loud_model(seed: int) -> DistilBertForSequenceClassification:
    """Two channels are as loud in every token as those of trained encoders."""
    torch.manual_seed(seed)
    loud = torch.randperm(64)[:2]
    config = DistilBertConfig(
        vocab_size=80, max_position_embeddings=40, n_layers=3, n_heads=4, dim=64, hidden_dim=128, initializer_range=0.1
    )
    model = DistilBertForSequenceClassification(config).eval()
    draw_biases(model, spread=0.1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("layer_norm.bias"):
                parameter[loud] += 12
    return model


def documents(seed: int) -> PackedTokens:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (20,), generator=generator).tolist()
    return PackedTokens.from_lengths(torch.randint(0, 80, (sum(lengths),), generator=generator), lengths)


@pytest.mark.parametrize("seed", range(10))
def test_moving_and_scaling_channels_changes_nothing_but_rounding(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(30, 16, generator=generator, dtype=torch.float64)
    weight = torch.randn(8, 16, generator=generator, dtype=torch.float64)
    channels = Channels(x.mean(0), (x - x.mean(0)).abs().amax(0))
    factors = channels.factors(weight)
    found = ((x - channels.centre) * factors) @ (weight / factors).T + weight @ channels.centre
    torch.testing.assert_close(found, x @ weight.T, atol=1e-12, rtol=1e-12)


@needs_int8
@pytest.mark.parametrize("post", [NOTHING, PostOp("gelu", "none"), PostOp("relu")], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_a_layer_with_loud_inputs_errs_less(post, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(64, 32)
    x = torch.randn(200, 64)
    x[:, 3] = 20 * x[:, 3] - 15
    exact = layer(x)
    exact = {"gelu": nn.functional.gelu, "relu": torch.relu, "none": lambda y: y}[post.name](exact)
    channels = Channels(x.mean(0), (x - x.mean(0)).abs().amax(0))
    with torch.no_grad():
        plain, equalised = (Int8Linear([layer], post, channels=known)(x) for known in (None, channels))
    assert (equalised - exact).abs().mean() < 0.5 * (plain - exact).abs().mean()


@needs_int8
def test_models_with_loud_channels_err_less(monkeypatch):
    errors = {"equalised": 0.0, "plain": 0.0}
    for seed in range(12):
        model, packed = loud_model(seed), documents(seed)
        with torch.inference_mode():
            exact = model.forward_packed(packed)
        for name in errors:
            fast = copy.deepcopy(model)
            with monkeypatch.context() as patch:
                if name == "plain":
                    patch.setattr("distilbatch.inference.backends.onednn.observe_channels", lambda _encoder: {})
                OneDnnBackend(int8=True).prepare(fast, device=torch.device("cpu"), dtype=torch.float32)
            with torch.inference_mode():
                errors[name] += float((fast.forward_packed(packed) - exact).abs().mean())
    assert errors["equalised"] < 0.7 * errors["plain"]


def test_every_part_is_looked_at_and_the_encoder_is_left_as_it_was():
    model, packed = loud_model(0), documents(0)
    with torch.inference_mode():
        before = model.forward_packed(packed)
    found = observe_channels(model.encoder)
    blocks = list(model.encoder.transformer.layer)
    assert set(found) == {part for block in blocks for part in (block.attention, block.ffn)}
    assert not any(module._forward_pre_hooks for module in model.modules())
    with torch.inference_mode():
        assert torch.equal(model.forward_packed(packed), before)


def test_the_same_channels_are_found_each_time_whatever_was_drawn_before():
    model = loud_model(0)
    first = observe_channels(model.encoder)
    torch.rand(7)
    second = observe_channels(model.encoder)
    for part, (centre, reach) in first.items():
        assert torch.equal(second[part].centre, centre)
        assert torch.equal(second[part].reach, reach)


def test_silent_channels_and_weights_of_zero_get_finite_factors():
    silent = Channels(torch.zeros(3), torch.tensor([0.0, 0.0, 5.0]))
    assert silent.factors(torch.tensor([[0.0, 1.0, 1.0]])).isfinite().all()
    assert Channels(torch.zeros(2), torch.zeros(2)).factors(torch.zeros(4, 2)).isfinite().all()
