"""The private operators against plain products, and their own checks against machines that get it wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from distilbatch.inference.backends import operators
from distilbatch.inference.backends.operators import LEVELS, Int8Sums, PackedInt8, PostOp, Quantised

POST_OPS = {
    PostOp(): lambda x: x,
    PostOp("gelu", "none"): F.gelu,
    PostOp("gelu", "tanh"): lambda x: F.gelu(x, approximate="tanh"),
    PostOp("relu"): F.relu,
}

needs_packed = pytest.mark.skipif(
    not operators.has_packed_linear(torch.float32), reason="torch has no prepacked linear layers here"
)
needs_int8 = pytest.mark.skipif(not operators.int8_sums(), reason="torch has no int8 kernels for this CPU")


@pytest.fixture(autouse=True)
def fresh_checks() -> Iterator[None]:
    yield
    for check in (operators.has_packed_linear, operators.int8_sums, operators.bfloat16_is_native):
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


@pytest.mark.parametrize("seed", range(20))
def test_quantised_activations_are_within_a_step(seed):
    generator = torch.Generator().manual_seed(seed)
    scale, shift = torch.randn(2, generator=generator).tolist()
    x = 10**scale * (torch.randn(50, 40, generator=generator) + 3 * shift)
    values, step, zero, _ = operators.quantise(x)
    assert values.dtype is torch.uint8
    assert ((values.float() - zero) * step - x).abs().max() <= 0.501 * step
    assert ((values == zero) == (x.abs() < 0.5 * step)).float().mean() > 0.99


@pytest.mark.parametrize("zero", [127, 31])
@pytest.mark.parametrize("seed", range(10))
def test_rows_are_quantised_within_a_step_of_their_own(zero, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, 40, generator=generator) * 10 ** torch.randn(50, 1, generator=generator)
    values, scale, found_zero, row_scales = operators.quantise_rows(x, zero=zero)
    assert (scale, found_zero) == (1.0, zero)
    assert ((values.float() - zero) * row_scales - x).abs().max(1).values.le(0.502 * row_scales[:, 0]).all()
    alone = operators.quantise_rows(x[7:8], zero=zero)
    assert torch.equal(alone.values, values[7:8])  # whatever batch a row is in


@needs_int8
@pytest.mark.parametrize("post", POST_OPS, ids=str)
def test_rows_with_scales_of_their_own_give_the_same_sums(post):
    x, weight, bias = torch.randn(40, 64) * 10 ** torch.randn(40, 1), torch.randn(30, 64), torch.randn(30)
    packed = operators.pack_int8(weight, rows=40)
    quantised = operators.quantise_rows(x, zero=LEVELS // 2)
    found = operators.int8_linear(quantised, packed, bias, post=post)
    rounded = (weight / packed.scales[:, None]).round().double() * packed.scales.double()[:, None]
    inputs = (quantised.values.double() - quantised.zero) * quantised.row_scales.double()
    exact = POST_OPS[post](inputs @ rounded.T + bias.double())
    torch.testing.assert_close(found.double(), exact, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("x", [torch.zeros(3, 4), torch.full((3, 4), 7.0), torch.full((3, 4), -7.0), torch.zeros(0, 4)])
def test_activations_without_spread_are_quantised_too(x):
    values, step, zero, _ = operators.quantise(x)
    torch.testing.assert_close((values.float() - zero) * step, x, atol=0.05, rtol=0)


@needs_int8
@pytest.mark.parametrize("post", POST_OPS, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_int8_layers_sum_exactly_and_err_by_rounding_alone(post, seed):
    rows, width, outputs = sizes(seed)
    x, weight, bias = torch.randn(rows, width), torch.randn(outputs, width), torch.randn(outputs)
    packed = operators.pack_int8(weight, rows=rows)
    quantised = operators.quantise(x)
    found = operators.int8_linear(quantised, packed, bias, post=post)

    rounded = (weight / packed.scales[:, None]).round().double() * packed.scales.double()[:, None]
    integers = quantised.values.double() - quantised.zero
    exact = POST_OPS[post](integers * quantised.scale @ rounded.T + bias.double())
    torch.testing.assert_close(found.double(), exact, atol=1e-3, rtol=1e-4)
    # Rounding of activations and weights, as independent errors of a third of a step in each product.
    noise = (quantised.scale + float(packed.scales.max())) * width**0.5
    assert (found - POST_OPS[post](F.linear(x, weight, bias))).abs().max() < 3 * noise


@needs_int8
@pytest.mark.parametrize(("outputs", "width"), [(2304, 768), (768, 768), (3072, 768), (768, 3072), (10, 35), (64, 1)])
@pytest.mark.parametrize("rows", [1, 3, 16, 33, 300])
def test_the_largest_bytes_do_not_overflow_at_the_shapes_of_models(outputs, width, rows):
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(outputs, width, generator=generator).sign()  # every one as large as the largest
    values = torch.where(torch.rand(rows, width, generator=generator) < 0.9, LEVELS, 0).to(torch.uint8)
    packed = operators.pack_int8(weight, rows=2048)
    found = operators.int8_linear(Quantised(values, 1.0, 100), packed, torch.zeros(outputs))
    rounded = (weight / packed.scales[:, None]).round().double() * packed.scales.double()[:, None]
    torch.testing.assert_close(found.double(), (values.double() - 100) @ rounded.T, rtol=1e-5, atol=0.5)


class Saturating:
    """A CPU that adds the products of columns ``distance`` apart in 16 bits, as AVX2 does with neighbours."""

    def __init__(self, distance: int) -> None:
        self.distance = distance

    def qlinear_prepack(self, values, _shape):
        return values

    def qlinear_pointwise(self, x, scale, zero, weight, scales, _zeros, bias, *_rest):
        products = (x[:, None].int() - zero) * weight[None].int()
        grouped = products.unflatten(2, (-1, 2, self.distance)).sum(3).clamp(-(1 << 15), (1 << 15) - 1)
        return grouped.sum((2, 3)) * scale * scales + bias


@pytest.mark.parametrize(("distance", "sums"), [(1, Int8Sums.PAIRED), (2, None), (4, None), (128, None)])
def test_a_cpu_that_saturates_is_found_out(monkeypatch, distance, sums):
    operators.int8_sums.cache_clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(operators, "_ONEDNN", Saturating(distance))
    assert operators.int8_sums() is sums


@pytest.mark.parametrize("width", [1, 2, 63, 64])
def test_weights_for_a_cpu_that_saturates_leave_room_for_neighbours_and_lose_little(monkeypatch, width):
    monkeypatch.setattr(operators, "int8_sums", lambda: Int8Sums.PAIRED)
    monkeypatch.setattr(
        operators, "_prepack", lambda values, scales, *, rows: PackedInt8(values, scales, values, scales)
    )
    for seed in range(20):
        weight = torch.randn(50, width, generator=torch.Generator().manual_seed(seed)) ** (1 + seed % 3)
        values, scales, *_ = operators.pack_int8(weight, rows=1)
        pairs = torch.nn.functional.pad(values.int(), (0, width % 2)).unflatten(1, (-1, 2))
        for side in (pairs, -pairs):
            assert int(side.clamp(min=0).sum(2).max()) * LEVELS < 1 << 15
        assert ((values * scales[:, None] - weight).abs() <= 0.501 * scales[:, None]).all()
        assert (scales <= 2.001 * weight.abs().amax(1) / 127).all()


@pytest.mark.parametrize("error", [RuntimeError("not for this CPU"), TypeError("other arguments"), AttributeError("x")])
def test_operators_that_are_gone_are_not_used(monkeypatch, error):
    class Gone:
        def __getattr__(self, name):
            raise error

    monkeypatch.setattr(operators, "_MKLDNN", Gone())
    monkeypatch.setattr(operators, "_ONEDNN", Gone())
    for check in (operators.has_packed_linear, operators.int8_sums, operators.bfloat16_is_native):
        check.cache_clear()
    assert not operators.has_packed_linear(torch.float32)
    assert not operators.has_packed_linear(torch.bfloat16)
    assert operators.int8_sums() is None


def test_operators_that_compute_something_else_are_not_used(monkeypatch):
    operators.has_packed_linear.cache_clear()
    monkeypatch.setattr(operators, "packed_linear", lambda x, _packed, bias, _post: x[:, : len(bias)] * 0)
    assert not operators.has_packed_linear(torch.float32)
