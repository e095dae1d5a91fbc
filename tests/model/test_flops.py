"""The floor: FLOPs worked out by hand, and the published figures of the base model."""

from __future__ import annotations

import numpy as np
import pytest

from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.flops import ATTENTION, FFN_IN, FFN_OUT, OUT, QKV, floor_seconds, forward_flops, linear_shapes

TINY = DistilBertConfig(n_layers=2, n_heads=2, dim=4, hidden_dim=8)


def test_a_full_forward_by_hand():
    # One layer over 3 tokens: 6*3*16, 2*3*16, 2*3*4*8 twice, 4*9*4; there are two layers.
    flops = forward_flops(TINY, np.array([3]), first_only=False)
    assert flops == {QKV: 576, OUT: 192, FFN_IN: 384, FFN_OUT: 384, ATTENTION: 288}


def test_a_last_layer_for_the_first_token_by_hand():
    # The last layer: 4*3*16 + 2*16 for K, V and one Q; 2*16; 2*4*8 twice; 4*3*4.
    flops = forward_flops(TINY, np.array([3]), first_only=True)
    assert flops == {QKV: 288 + 224, OUT: 96 + 32, FFN_IN: 192 + 64, FFN_OUT: 192 + 64, ATTENTION: 144 + 48}


@pytest.mark.parametrize("length", [32, 128, 512])
def test_the_base_model_costs_what_its_closed_form_says(length):
    config = DistilBertConfig()
    full = sum(forward_flops(config, np.array([length]), first_only=False).values())
    first = sum(forward_flops(config, np.array([length]), first_only=True).values())
    dim, blocks = 768, 6
    assert full == length * (24 * dim**2 * blocks + 4 * length * dim * blocks)
    assert first / length == pytest.approx(73.14e6 + 15_360 * length + 3_072 + 11.80e6 / length, rel=1e-3)


def test_the_floor_divides_each_shape_by_its_own_rate_and_attention_by_the_best():
    rates = {QKV: 100.0, OUT: 50.0, FFN_IN: 200.0, FFN_OUT: 100.0}
    flops = {QKV: 100.0, OUT: 100.0, FFN_IN: 100.0, FFN_OUT: 100.0, ATTENTION: 100.0}
    assert floor_seconds(flops, rates) == pytest.approx(1 + 2 + 0.5 + 1 + 0.5)


def test_the_shapes_are_those_of_a_block():
    assert {(shape.inputs, shape.outputs) for shape in linear_shapes(DistilBertConfig()).values()} == {
        (768, 2304),
        (768, 768),
        (768, 3072),
        (3072, 768),
    }
