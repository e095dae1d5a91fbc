"""torch's private operators, and no other file calls any: what they can do here, and calls that hide their signatures.

Those of CPUs are what torch's own compiler puts into frozen graphs (``torch/_inductor/fx_passes/mkldnn_fusion.py`` and
``quantization.py``), callable without it. Any release of torch may drop or change them, and on some machines they
compute something else, saturate or crawl; so each is tried on numbers whose result is known before it is trusted.
"""

from __future__ import annotations

import logging
from enum import Enum
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from distilbatch.inference.backends.quantise import LEVELS, WEIGHT_LEVELS, Quantised, quantise_weight
from distilbatch.model.packed import Bounds

_log = logging.getLogger(__name__)

# What a missing or changed operator raises: no such name, other arguments, not for this CPU.
_REFUSALS = (AttributeError, RuntimeError, TypeError)
_MKLDNN, _ONEDNN = torch.ops.mkldnn, torch.ops.onednn


class PostOp(NamedTuple):
    """What an operator does to its result before it leaves the registers.

    Args:
        name: oneDNN's name of the function.
        algorithm: Its variant.
    """

    name: str = "none"
    algorithm: str = ""


NOTHING = PostOp()


# --- Prepacked linear layers of float32 and bfloat16 -----------------------------------------------------------------


def pack_linear(weight: Tensor, *, rows: int) -> Tensor:
    """Reorder ``(out, in)`` weights into the layout that oneDNN computes with, best for ``rows`` rows at a time."""
    packed: Tensor = _MKLDNN._reorder_linear_weight(weight.detach().contiguous(), rows)
    return packed


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor, post: PostOp = NOTHING) -> Tensor:
    """Map ``(T, in)`` to ``(T, out)``: ``post(x @ weight.T + bias)``, in one pass where that is faster."""
    fused = post if fuses(post) else NOTHING
    out: Tensor = _MKLDNN._linear_pointwise(x, packed, bias, fused.name, [], fused.algorithm)
    return out if fused is post else _apply(post, out)


def fuses(post: PostOp) -> bool:
    """Whether a function is computed faster in the pass of a product than behind it."""
    return post.name != "gelu" or _fuses_gelu()


@cache
def _fuses_gelu() -> bool:
    # With AVX2 oneDNN takes 23 ms for GELU in its products of 2048 x 3072, and torch 13 ms behind them.
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def _apply(post: PostOp, x: Tensor) -> Tensor:
    """Compute a function in place."""
    if post.name == "gelu":
        out: Tensor = torch.ops.aten.gelu_(x, approximate=post.algorithm)
        return out
    return x.relu_() if post.name == "relu" else x


@cache
def has_packed_linear(dtype: torch.dtype) -> bool:
    """Whether prepacked linear layers of a format compute the right thing here."""
    if dtype is torch.bfloat16 and not bfloat16_is_native():
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((33, 64), (48, 64), (48,)))
    try:
        with torch.no_grad():
            found = packed_linear(x, pack_linear(weight, rows=33), bias, PostOp("gelu", "none"))
    except _REFUSALS as error:
        _log.info("oneDNN's prepacked linear layers are not used: %s", error)
        return False
    expected = F.gelu(F.linear(x.float(), weight.float(), bias.float()))
    tolerance = 1e-4 if dtype is torch.float32 else 0.2
    return bool((found.float() - expected).abs().max() < tolerance)


@cache
def bfloat16_is_native() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; others emulate it, many times slower than float32."""
    try:
        dots = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return bool(dots and _MKLDNN._is_mkldnn_bf16_supported())
    except _REFUSALS:
        return False


# --- Linear layers of int8 weights and uint8 activations -------------------------------------------------------------


class Int8Sums(Enum):
    """How this CPU sums products of bytes."""

    WIDE = "VNNI or AMX"  # in 32 bits
    PAIRED = "AVX2"  # two neighbours in 16 bits first, beyond which they saturate, silently


class PackedInt8(NamedTuple):
    """The weights of a linear layer, quantised by output channel.

    Args:
        weight: ``(out, in)`` in oneDNN's own layout.
        scales: ``(out,)`` float32.
        zeros: ``(out,)`` int64, all 0: weights are symmetric.
        sums: ``(out,)`` float32, of each channel's quantised weights: what a zero of the inputs is multiplied with.
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor
    sums: Tensor


def pack_int8(weight: Tensor, *, rows: int) -> PackedInt8:
    """Quantise ``(out, in)`` weights so that sums are exact here, and reorder them for ``rows`` rows at a time."""
    values, scales = quantise_weight(weight, paired=int8_sums() is Int8Sums.PAIRED)
    return _prepack(values, scales, rows=rows)


def _prepack(values: Tensor, scales: Tensor, *, rows: int) -> PackedInt8:
    packed = _ONEDNN.qlinear_prepack(values, [rows, values.shape[1]])
    zeros = torch.zeros(len(values), dtype=torch.int64)
    return PackedInt8(packed, scales, zeros, values.sum(1) * scales)


def int8_linear(
    x: Quantised, packed: PackedInt8, bias: Tensor, *, dtype: torch.dtype = torch.float32, post: PostOp = NOTHING
) -> Tensor:
    """Map ``(T, in)`` to ``(T, out)`` of ``dtype``: ``post(x @ weight.T + bias)``, with sums in int32.

    Rows with scales of their own take another pass, and can have no ``post`` in the first one.
    """
    # The zero goes into the bias: oneDNN would sum the weights anew in every call.
    bias_of_zero = packed.sums * (-x.zero * x.scale)
    by_row = x.row_scales is not None
    first_post = NOTHING if by_row else post
    out: Tensor = _ONEDNN.qlinear_pointwise(
        x.values,
        x.scale,
        0,
        packed.weight,
        packed.scales,
        packed.zeros,
        bias_of_zero if by_row else bias_of_zero + bias,
        1.0,
        0,
        dtype,
        first_post.name,
        [],
        first_post.algorithm,
    )
    if x.row_scales is None:
        return out
    torch.addcmul(bias.to(dtype), out, x.row_scales.to(dtype), out=out)
    return _apply(post, out)


@cache
def int8_sums() -> Int8Sums | None:
    """How products of bytes are summed here, found by trying; None where int8 is of no use."""
    if torch.backends.cpu.get_cpu_capability() not in {"AVX2", "AVX512"}:
        return None  # reference kernels, thousands of times slower
    return next((sums for sums in Int8Sums if _int8_is_right(sums, torch.float32, NOTHING)), None)


@cache
def has_int8(dtype: torch.dtype, post: PostOp) -> bool:
    """Whether :func:`int8_linear` with this output and function, which are kernels of their own, is right here, too."""
    sums = int8_sums()
    return sums is not None and _int8_is_right(sums, dtype, post)


def _int8_is_right(sums: Int8Sums, dtype: torch.dtype, post: PostOp) -> bool:
    """Whether sums as large as ``sums`` allows come out right, in all lengths up to the full width."""
    width, rows = 256, 32
    signs = torch.where(torch.arange(width) % 3 > 0, 1, -1)[:, None]
    weight = torch.full((width, width), WEIGHT_LEVELS)
    if sums is Int8Sums.PAIRED:
        # Of two neighbours one is 127 and one is 1, in any order: any others that a kernel paired would overflow.
        first = torch.randint(0, 2, (width, width // 2), generator=torch.Generator().manual_seed(0))
        weight = torch.stack((first, 1 - first), dim=2).flatten(1) * (WEIGHT_LEVELS - 1) + 1
    weight = (weight * signs).to(torch.int8)
    ends = torch.arange(1, rows + 1)[:, None] * (width // rows)
    values = torch.where(torch.arange(width) < ends, LEVELS, LEVELS // 2).to(torch.uint8)
    # Results reach from -4 to 4, where functions bend; a saturated pair of neighbours is off by 0.03.
    x = Quantised(values, 1e-6, LEVELS // 2)
    expected = _apply(post, ((values.double() - x.zero) @ weight.double().T) * x.scale)
    try:
        packed = _prepack(weight, torch.ones(width), rows=rows)
        found = int8_linear(x, packed, torch.zeros(width), dtype=dtype, post=post)
    except _REFUSALS as error:
        _log.info("an int8 linear layer of oneDNN is not used, with %s and %s: %s", dtype, post.name, error)
        return False
    tolerance = 1e-3 if dtype is torch.float32 else 0.02
    return found.dtype is dtype and bool((found.double() - expected).abs().max() <= tolerance)


# --- Attention of documents of any lengths, on CUDA devices; varlen.py tries each on the device ----------------------


def flash_attention(q: Tensor, k: Tensor, v: Tensor, bounds: Bounds) -> Tensor:
    """Torch's flash kernel, called past ``varlen_attn``; see ``varlen.Kernel``.

    Newer releases of that prefer cuDNN, which plans each new shape for 40 to 70 ms; every token batch is of another.
    """
    no_dropout, causal, debug_mask = 0.0, False, False
    context: Tensor = torch.ops.aten._flash_attention_forward(
        q,
        k,
        v,
        bounds.queries,
        bounds.keys,
        bounds.max_queries,
        bounds.max_keys,
        no_dropout,
        causal,
        debug_mask,
    )[0]
    return context


def efficient_attention(q: Tensor, k: Tensor, v: Tensor, bounds: Bounds) -> Tensor:
    """Torch's memory-efficient kernel, which older cards and float32 have, too; see ``varlen.Kernel``."""
    no_bias, no_dropout, no_mask = None, 0.0, 0
    context: Tensor = torch.ops.aten._efficient_attention_forward(
        q[None],
        k[None],
        v[None],
        no_bias,
        bounds.queries,
        bounds.keys,
        bounds.max_queries,
        bounds.max_keys,
        no_dropout,
        no_mask,
    )[0]
    return context[0]


# --- Products of bytes that only ``bench`` measures ------------------------------------------------------------------


def int8_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply ``(T, in)`` by ``(in, out)``, both int8, on a CUDA device: ``(T, out)`` int32."""
    sums: Tensor = torch._int_mm(x, weight)
    return sums


def pack_dynamic_int8(weight: Tensor, bias: Tensor) -> object:
    """Pack per-channel quantised ``(out, in)`` weights for ``torch.backends.quantized.engine``."""
    return torch.ops.quantized.linear_prepack(weight, bias)


def dynamic_int8_linear(x: Tensor, packed: object) -> Tensor:
    """Map ``(T, in)`` float32 to ``(T, out)``, quantised on the way, with weights of :func:`pack_dynamic_int8`."""
    out: Tensor = torch.ops.quantized.linear_dynamic(x, packed, True)
    return out
