"""The private operators against plain products, and their own checks against machines that get it wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from distilbatch.inference.backends import operators
from distilbatch.inference.backends.linears import Int8Linear
from distilbatch.inference.backends.operators import Int8Sums, PostOp
from distilbatch.inference.backends.quantise import LEVELS, Quantised, quantise, quantise_rows

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
    clear_checks()


def clear_checks() -> None:
    for check in (
        operators.has_packed_linear,
        operators.int8_sums,
        operators.has_int8,
        operators.bfloat16_is_native,
    ):
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


@needs_int8
@pytest.mark.parametrize("post", POST_OPS, ids=str)
def test_rows_with_scales_of_their_own_give_the_same_sums(post):
    x, weight, bias = torch.randn(40, 64) * 10 ** torch.randn(40, 1), torch.randn(30, 64), torch.randn(30)
    packed = operators.pack_int8(weight, rows=40)
    quantised = quantise_rows(x, zero=LEVELS // 2)
    found = operators.int8_linear(quantised, packed, bias, post=post)
    rounded = (weight / packed.scales[:, None]).round().double() * packed.scales.double()[:, None]
    inputs = (quantised.values.double() - quantised.zero) * quantised.row_scales.double()
    exact = POST_OPS[post](inputs @ rounded.T + bias.double())
    torch.testing.assert_close(found.double(), exact, atol=1e-3, rtol=1e-4)


@needs_int8
@pytest.mark.parametrize("post", POST_OPS, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_int8_layers_sum_exactly_and_err_by_rounding_alone(post, seed):
    rows, width, outputs = sizes(seed)
    x, weight, bias = torch.randn(rows, width), torch.randn(outputs, width), torch.randn(outputs)
    packed = operators.pack_int8(weight, rows=rows)
    quantised = quantise(x)
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


class Partly:
    """The real operators, with one kernel that is not what it should be."""

    def __init__(self, dtype: torch.dtype, post: PostOp, mistake) -> None:
        self.real = operators._ONEDNN
        self.variant = (dtype, post)
        self.mistake = mistake

    def qlinear_prepack(self, *arguments):
        return self.real.qlinear_prepack(*arguments)

    def qlinear_pointwise(self, *arguments):
        dtype, name, _, algorithm = arguments[-4:]
        found = self.real.qlinear_pointwise(*arguments)
        return self.mistake(found) if (dtype, PostOp(name, algorithm)) == self.variant else found


def refuse(_found: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("could not create a primitive descriptor")


VARIANTS = [(torch.float32, post) for post in POST_OPS] + [(torch.bfloat16, post) for post in POST_OPS]
MISTAKES = {
    "refuses": refuse,
    "another format": lambda found: found.half(),
    "one result off": lambda found: found.index_add(0, torch.tensor([31]), torch.full_like(found[:1], 0.03)),
    "not a number": lambda found: found * float("nan"),
    "function left out": lambda found: found.abs() + 0.1,
}


@needs_int8
@pytest.mark.parametrize(("dtype", "post"), VARIANTS, ids=str)
def test_every_kernel_of_this_machine_passes_its_check(dtype, post):
    assert operators.has_int8(dtype, post)


@needs_int8
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize(("dtype", "post"), VARIANTS[1:], ids=str)
def test_a_kernel_with_a_mistake_is_not_used_and_the_others_are(monkeypatch, dtype, post, mistake):
    clear_checks()
    monkeypatch.setattr(operators, "_ONEDNN", Partly(dtype, post, MISTAKES[mistake]))
    assert not operators.has_int8(dtype, post)
    assert operators.has_int8(torch.float32, PostOp())


@needs_int8
def test_a_layer_computes_a_function_behind_a_product_that_gets_it_wrong(monkeypatch):
    clear_checks()
    gelu = PostOp("gelu", "none")
    monkeypatch.setattr(operators, "fuses", lambda _post: True)
    monkeypatch.setattr(operators, "_ONEDNN", Partly(torch.float32, gelu, lambda found: found * 0))
    layer, x = torch.nn.Linear(64, 48), torch.randn(30, 64)
    with torch.inference_mode():
        exact = F.gelu(layer(x))
        assert (Int8Linear([layer], gelu)(x) - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize("error", [RuntimeError("not for this CPU"), TypeError("other arguments"), AttributeError("x")])
def test_operators_that_are_gone_are_not_used(monkeypatch, error):
    class Gone:
        def __getattr__(self, name):
            raise error

    monkeypatch.setattr(operators, "_MKLDNN", Gone())
    monkeypatch.setattr(operators, "_ONEDNN", Gone())
    clear_checks()
    assert not operators.has_packed_linear(torch.float32)
    assert not operators.has_packed_linear(torch.bfloat16)
    assert operators.int8_sums() is None
    assert not operators.has_int8(torch.float32, PostOp())


def test_operators_that_compute_something_else_are_not_used(monkeypatch):
    operators.has_packed_linear.cache_clear()
    monkeypatch.setattr(operators, "packed_linear", lambda x, _packed, bias, _post: x[:, : len(bias)] * 0)
    assert not operators.has_packed_linear(torch.float32)
