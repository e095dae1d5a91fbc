"""Numbers to bytes: within a step, in their range, and whatever batch they are in."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from distilbatch.inference.backends.quantise import LEVELS, quantise, quantise_rows, quantise_weight


@pytest.mark.parametrize("seed", range(20))
def test_quantised_activations_are_within_a_step(seed):
    generator = torch.Generator().manual_seed(seed)
    scale, shift = torch.randn(2, generator=generator).tolist()
    x = 10**scale * (torch.randn(50, 40, generator=generator) + 3 * shift)
    values, step, zero, _ = quantise(x)
    assert values.dtype is torch.uint8
    assert ((values.float() - zero) * step - x).abs().max() <= 0.501 * step
    assert ((values == zero) == (x.abs() < 0.5 * step)).float().mean() > 0.99


@pytest.mark.parametrize("zero", [127, 31])
@pytest.mark.parametrize("seed", range(10))
def test_rows_are_quantised_within_a_step_of_their_own(zero, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, 40, generator=generator) * 10 ** torch.randn(50, 1, generator=generator)
    values, scale, found_zero, row_scales = quantise_rows(x, zero=zero)
    assert (scale, found_zero) == (1.0, zero)
    assert ((values.float() - zero) * row_scales - x).abs().max(1).values.le(0.502 * row_scales[:, 0]).all()
    alone = quantise_rows(x[7:8], zero=zero)
    assert torch.equal(alone.values, values[7:8])  # whatever batch a row is in


@pytest.mark.parametrize("x", [torch.zeros(3, 4), torch.full((3, 4), 7.0), torch.full((3, 4), -7.0), torch.zeros(0, 4)])
def test_activations_without_spread_are_quantised_too(x):
    values, step, zero, _ = quantise(x)
    torch.testing.assert_close((values.float() - zero) * step, x, atol=0.05, rtol=0)


@pytest.mark.parametrize("width", [1, 2, 63, 64])
def test_weights_for_a_cpu_that_saturates_leave_room_for_neighbours_and_lose_little(width):
    for seed in range(20):
        weight = torch.randn(50, width, generator=torch.Generator().manual_seed(seed)) ** (1 + seed % 3)
        values, scales = quantise_weight(weight, paired=True)
        pairs = F.pad(values.int(), (0, width % 2)).unflatten(1, (-1, 2))
        for side in (pairs, -pairs):
            assert int(side.clamp(min=0).sum(2).max()) * LEVELS < 1 << 15
        assert ((values * scales[:, None] - weight).abs() <= 0.501 * scales[:, None]).all()
        assert (scales <= 2.001 * weight.abs().amax(1) / 127).all()
