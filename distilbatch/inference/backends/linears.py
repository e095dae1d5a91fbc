"""Linear layers of a frozen model: plain ones, prepacked floats, and int8.

Each may stand for several layers with one input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from typing_extensions import override

from distilbatch.inference.backends import operators
from distilbatch.inference.backends.equalise import Channels
from distilbatch.inference.backends.operators import NOTHING, PostOp
from distilbatch.inference.backends.quantise import LEVELS, quantise, quantise_rows

HINT_ROWS = 2048  # rows of a usual token batch on a CPU: what weights are laid out for

MakeLinear = Callable[[Sequence[nn.Linear], PostOp], nn.Module]
"""Makes one layer of layers with the same input: their outputs side by side, then the function."""


class PackedLinear(nn.Module):
    """float32 or bfloat16 weights in oneDNN's own layout.

    Args:
        layers: Layers with the same input.
        post: The function of their outputs.
    """

    def __init__(self, layers: Sequence[nn.Linear], post: PostOp) -> None:
        super().__init__()
        weight, self._bias = _merged(layers)
        self._weight = operators.pack_linear(weight, rows=HINT_ROWS)
        self._post = post

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map ``(T, in)`` to ``(T, out)``."""
        return operators.packed_linear(x, self._weight, self._bias, self._post)


class MergedLinear(nn.Module):
    """torch's own linear layer over the weights of all.

    Args:
        layers: Layers with the same input.
        post: Has to be nothing.

    Raises:
        ValueError: A function is asked for, which torch's layer cannot compute in its pass.
    """

    def __init__(self, layers: Sequence[nn.Linear], post: PostOp) -> None:
        super().__init__()
        if post != NOTHING:
            raise ValueError(f"merged linear layer: expected no function behind it, found {post.name}")
        weight, bias = _merged(layers)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map ``(T, in)`` to ``(T, out)``."""
        return F.linear(x, self.weight, self.bias)


class Int8Linear(nn.Module):
    """Weights of 8 bits, a scale a channel, and activations of 8 bits.

    Activations are scaled by their own bounds, so that there is no calibration and no state: row by row, which is the
    finer way and costs a pass over the output. Only where that would take an activation function out of the product
    are the bounds those of the whole token batch.

    Args:
        layers: Layers with the same input.
        post: The function of their outputs.
        dtype: Of the output; the input is float32, or is made so.
        nonnegative: Whether the input is nearly so, as after GELU.
        channels: What the channels of the input are like; None leaves them as they are.
    """

    def __init__(
        self,
        layers: Sequence[nn.Linear],
        post: PostOp,
        *,
        dtype: torch.dtype = torch.float32,
        nonnegative: bool = False,
        channels: Channels | None = None,
    ) -> None:
        super().__init__()
        weight, bias = _merged(layers)
        self._factors = self._offsets = None
        if channels is not None:
            self._factors = channels.factors(weight)
            self._offsets = -channels.centre * self._factors
            bias = bias + weight @ channels.centre
            weight = weight / self._factors
        self._weight = operators.pack_int8(weight, rows=HINT_ROWS)
        self._bias = bias.float()
        self._by_row = post == NOTHING or not (operators.fuses(post) and operators.has_int8(dtype, post))
        self._zero = LEVELS // (8 if nonnegative else 2)
        self._post = post
        self._dtype = dtype

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map ``(T, in)`` to ``(T, out)``."""
        x = x.float()
        if self._factors is not None and self._offsets is not None:
            x = torch.addcmul(self._offsets, x, self._factors)
        quantised = quantise_rows(x, zero=self._zero) if self._by_row else quantise(x)
        return operators.int8_linear(quantised, self._weight, self._bias, dtype=self._dtype, post=self._post)


def _merged(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    weight = torch.cat([layer.weight.detach() for layer in layers])
    return weight, torch.cat([layer.bias.detach() for layer in layers])
