"""The private operators against plain products, and their own checks against machines that get it wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from distilbatch.inference.backends import operators
from distilbatch.inference.backends.operators import PostOp, Quantised

POST_OPS = {
    PostOp(): lambda x: x,
    PostOp("gelu", "none"): F.gelu,
    PostOp("gelu", "tanh"): lambda x: F.gelu(x, approximate="tanh"),
    PostOp("relu"): F.relu,
}

needs_packed = pytest.mark.skipif(
    not operators.has_packed_linear(torch.float32), reason="torch has no prepacked linear layers here"
)
needs_int8 = pytest.mark.skipif(not operators.activation_levels(), reason="torch has no int8 kernels for this CPU")


@pytest.fixture(autouse=True)
def fresh_checks() -> Iterator[None]:
    yield
    for check in (operators.has_packed_linear, operators.activation_levels, operators.bfloat16_is_native):
        check.cache_clear()


def sizes(seed: int) -> tuple[int, int, int]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(int(torch.randint(1, most, (), generator=generator)) for most in (300, 200, 200))


@needs_packed
@pytest.mark.parametrize("post", POST_OPS, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_prepacked_layers_compute_what_plain_ones_do(post, seed):
    rows, width, outputs = sizes(seed)
    x, weight, bias = torch.randn(rows, width), torch.randn(outputs, width), torch.randn(outputs)
    found = operators.packed_linear(x, operators.pack_linear(weight, rows=rows), bias, post)
    torch.testing.assert_close(found, POST_OPS[post](F.linear(x, weight, bias)), atol=2e-4, rtol=1e-4)


@needs_packed
@pytest.mark.parametrize("rows", [0, 1])
def test_prepacked_layers_take_few_rows_and_strided_ones(rows):
    x, weight, bias = torch.randn(rows, 64)[:, :32], torch.randn(8, 32), torch.randn(8)
    found = operators.packed_linear(x, operators.pack_linear(weight, rows=2048), bias)
    torch.testing.assert_close(found, F.linear(x, weight, bias), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("levels", [127, 255])
@pytest.mark.parametrize("seed", range(20))
def test_quantised_activations_stay_in_range_and_within_a_step(levels, seed):
    generator = torch.Generator().manual_seed(seed)
    scale, shift = torch.randn(2, generator=generator).tolist()
    x = 10**scale * (torch.randn(50, 40, generator=generator) + 3 * shift)
    values, step, zero, _ = operators.quantise(x, levels=levels)
    assert values.dtype is torch.uint8
    assert int(values.max()) <= levels
    assert ((values.float() - zero) * step - x).abs().max() <= 0.501 * step
    assert ((values == zero) == (x.abs() < 0.5 * step)).float().mean() > 0.99


@pytest.mark.parametrize(("levels", "zero"), [(127, 63), (255, 127), (255, 31), (127, 15)])
@pytest.mark.parametrize("seed", range(10))
def test_rows_are_quantised_within_a_step_of_their_own(levels, zero, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, 40, generator=generator) * 10 ** torch.randn(50, 1, generator=generator)
    values, scale, found_zero, row_scales = operators.quantise_rows(x, levels=levels, zero=zero)
    assert (scale, found_zero) == (1.0, zero)
    assert int(values.max()) <= levels
    assert ((values.float() - zero) * row_scales - x).abs().max(1).values.le(0.502 * row_scales[:, 0]).all()
    alone = operators.quantise_rows(x[7:8], levels=levels, zero=zero)
    assert torch.equal(alone.values, values[7:8])  # whatever batch a row is in


@needs_int8
@pytest.mark.parametrize("post", POST_OPS, ids=str)
def test_rows_with_scales_of_their_own_give_the_same_sums(post):
    levels = operators.activation_levels()
    x, weight, bias = torch.randn(40, 64) * 10 ** torch.randn(40, 1), torch.randn(30, 64), torch.randn(30)
    packed = operators.pack_int8(weight, rows=40)
    quantised = operators.quantise_rows(x, levels=levels, zero=levels // 2)
    found = operators.int8_linear(quantised, packed, bias, post=post)
    rounded = (weight / packed.scales[:, None]).round().double() * packed.scales.double()[:, None]
    inputs = (quantised.values.double() - quantised.zero) * quantised.row_scales.double()
    exact = POST_OPS[post](inputs @ rounded.T + bias.double())
    torch.testing.assert_close(found.double(), exact, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("x", [torch.zeros(3, 4), torch.full((3, 4), 7.0), torch.full((3, 4), -7.0), torch.zeros(0, 4)])
def test_activations_without_spread_are_quantised_too(x):
    values, step, zero, _ = operators.quantise(x, levels=255)
    torch.testing.assert_close((values.float() - zero) * step, x, atol=0.05, rtol=0)


@needs_int8
@pytest.mark.parametrize("post", POST_OPS, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_int8_layers_sum_exactly_and_err_by_rounding_alone(post, seed):
    rows, width, outputs = sizes(seed)
    x, weight, bias = torch.randn(rows, width), torch.randn(outputs, width), torch.randn(outputs)
    packed = operators.pack_int8(weight, rows=rows)
    levels = operators.activation_levels()
    quantised = operators.quantise(x, levels=levels)
    found = operators.int8_linear(quantised, packed, bias, post=post)

    rounded = (weight / packed.scales[:, None]).round().double() * packed.scales.double()[:, None]
    integers = quantised.values.double() - quantised.zero
    exact = POST_OPS[post](integers * quantised.scale @ rounded.T + bias.double())
    torch.testing.assert_close(found.double(), exact, atol=1e-3, rtol=1e-4)
    # Rounding of activations and weights, as independent errors of a third of a step in each product.
    noise = (quantised.scale + float(packed.scales.max())) * width**0.5
    assert (found - POST_OPS[post](F.linear(x, weight, bias))).abs().max() < 3 * noise


@needs_int8
def test_the_largest_bytes_that_are_trusted_do_not_overflow():
    levels = operators.activation_levels()
    width = 3072
    weight = torch.full((5, width), 1.0)
    x = Quantised(torch.full((7, width), levels, dtype=torch.uint8), 1.0, 0)
    found = operators.int8_linear(x, operators.pack_int8(weight, rows=7), torch.zeros(5))
    torch.testing.assert_close(found, torch.full((7, 5), float(levels * width)), rtol=1e-5, atol=0)


@needs_int8
def test_a_cpu_that_overflows_with_eight_bits_is_given_seven(monkeypatch):
    true_linear = operators.int8_linear

    def saturating(x, packed, bias, **options):
        out = true_linear(x, packed, bias, **options)
        return out.clamp(-1000, 1000) if int(x.values.max()) > 127 else out

    operators.activation_levels.cache_clear()
    monkeypatch.setattr(operators, "int8_linear", saturating)
    assert operators.activation_levels() == 127


@pytest.mark.parametrize("error", [RuntimeError("not for this CPU"), TypeError("other arguments"), AttributeError("x")])
def test_operators_that_are_gone_are_not_used(monkeypatch, error):
    class Gone:
        def __getattr__(self, name):
            raise error

    monkeypatch.setattr(operators, "_MKLDNN", Gone())
    monkeypatch.setattr(operators, "_ONEDNN", Gone())
    for check in (operators.has_packed_linear, operators.activation_levels, operators.bfloat16_is_native):
        check.cache_clear()
    assert not operators.has_packed_linear(torch.float32)
    assert not operators.has_packed_linear(torch.bfloat16)
    assert operators.activation_levels() == 0


def test_operators_that_compute_something_else_are_not_used(monkeypatch):
    operators.has_packed_linear.cache_clear()
    monkeypatch.setattr(operators, "packed_linear", lambda x, _packed, bias, _post: x[:, : len(bias)] * 0)
    assert not operators.has_packed_linear(torch.float32)
