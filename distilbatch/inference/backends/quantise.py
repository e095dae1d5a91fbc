"""Numbers to bytes: activations by their own bounds, weights by output channel. Plain arithmetic, no kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

LEVELS = 255
"""The largest activation byte."""

WEIGHT_LEVELS = 127
"""The largest weight byte, of either sign."""


class Quantised(NamedTuple):
    """Activations as unsigned bytes: ``x = (values - zero) * scale``.

    Args:
        values: ``(T, in)`` uint8.
        scale: Step.
        zero: The byte that stands for 0.
        row_scales: ``(T, 1)`` float32, another factor for each row; None for 1.
    """

    values: Tensor
    scale: float
    zero: int
    row_scales: Tensor | None = None


def quantise(x: Tensor) -> Quantised:
    """Quantise ``(T, in)`` float32 activations to 0..``LEVELS``, between their own least and largest value."""
    least, most = (float(bound) for bound in torch.aminmax(x)) if x.numel() else (0.0, 0.0)
    least, most = min(least, 0.0), max(most, 0.0)
    # One level less than there are: the zero is rounded to a level of its own, and nothing may then leave the range.
    scale = max((most - least) / (LEVELS - 1), torch.finfo(torch.float32).tiny)
    zero = round(-least / scale)
    # Conversion cuts the fraction off, so a half rounds to the nearest; two passes, as fast as torch's own operator
    # for it, which is to be removed.
    values = torch.add(torch.tensor(zero + 0.5), x, alpha=1 / scale).to(torch.uint8)
    return Quantised(values, scale, zero)


def quantise_rows(x: Tensor, *, zero: int) -> Quantised:
    """Quantise ``(T, in)`` float32 activations to 0..``LEVELS``, each row between bounds of its own.

    A token with large activations, as special tokens have, then takes no resolution from the others, and a document's
    result does not depend on the batch it is in.

    Args:
        x: The activations.
        zero: The byte that stands for 0 in every row; the lower, the less is kept for negative values.
    """
    most, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)  # aminmax is four times slower along rows
    scales = torch.maximum(most / (LEVELS - zero), least / -zero).clamp_(min=torch.finfo(torch.float32).tiny)
    # Rounded up to bfloat16: nothing leaves the range, and outputs in bfloat16 are multiplied without more rounding.
    scales = scales.mul_(1 + 2**-8).bfloat16().float()
    values = torch.addcmul(torch.tensor(zero + 0.5), x, scales.reciprocal())
    return Quantised(values.to(torch.uint8), 1.0, zero, scales)


def quantise_weight(weight: Tensor, *, paired: bool) -> tuple[Tensor, Tensor]:
    """Quantise ``(out, in)`` weights to 8 bits, one scale for each output channel.

    Args:
        weight: The weights.
        paired: Whether two neighbours are summed in 16 bits, which saturate. A channel then takes larger steps if two
            neighbours of one sign add up to more than its largest weight: rounded, no two exceed 128, and ``255 * 128``
            fits 16 bits. Large weights are rarely neighbours, so the steps of trained weights grow by a sixth, and
            activations keep their eighth bit.

    Returns:
        ``(out, in)`` int8 and the scales ``(out,)`` float32.
    """
    weight = weight.detach().float()
    largest = weight.abs().amax(1)
    if paired:
        largest = torch.maximum(largest, _largest_pairs(weight))
    scales = (largest / WEIGHT_LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    return (weight / scales[:, None]).round().to(torch.int8), scales


def _largest_pairs(weight: Tensor) -> Tensor:
    """The largest sum of two neighbours of one sign in each row of ``(out, in)``, as ``(out,)``."""
    pairs = F.pad(weight, (0, weight.shape[1] % 2)).view(len(weight), -1, 2)
    return torch.maximum(*(side.clamp(min=0).sum(2).amax(1) for side in (pairs, -pairs)))
