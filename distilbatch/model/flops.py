"""What a forward has to compute at least, by matrix shape; embeddings, norms, activations and heads are left out.

A document of l tokens costs in each layer, in FLOPs: 6 l d^2 for Q, K and V, 2 l d^2 for the projection after
attention, 2 l d h for each half of the feed-forward layer, and 4 l^2 d for attention. Where only the first token's
last state is read, the last layer is K and V of all tokens and all else of one: 4 l d^2 + 2 d^2, 2 d^2, 2 d h twice,
4 l d.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilbatch.model.configuration import DistilBertConfig

QKV, OUT, FFN_IN, FFN_OUT, ATTENTION = "qkv", "out", "ffn_in", "ffn_out", "attention"


@dataclass(frozen=True, slots=True)
class Shape:
    """A linear layer.

    Args:
        inputs: Its inputs.
        outputs: Its outputs.
    """

    inputs: int
    outputs: int


def linear_shapes(config: DistilBertConfig) -> dict[str, Shape]:
    """The linear layers of a block, by name."""
    dim, hidden = config.dim, config.hidden_dim
    return {
        QKV: Shape(dim, 3 * dim),
        OUT: Shape(dim, dim),
        FFN_IN: Shape(dim, hidden),
        FFN_OUT: Shape(hidden, dim),
    }


def forward_flops(config: DistilBertConfig, lengths: NDArray[np.int64], *, first_only: bool) -> dict[str, float]:
    """FLOPs of a forward over documents without padding.

    Args:
        config: Sizes of the model.
        lengths: ``(N,)`` tokens of each document.
        first_only: Whether only the first token's state of the last layer is read.

    Returns:
        By name of the linear layer, and ``attention``.
    """
    dim, hidden, count = config.dim, config.hidden_dim, float(len(lengths))
    tokens, squares = float(lengths.sum()), float((lengths.astype(np.float64) ** 2).sum())
    full = {
        QKV: 6 * tokens * dim**2,
        OUT: 2 * tokens * dim**2,
        FFN_IN: 2 * tokens * dim * hidden,
        FFN_OUT: 2 * tokens * dim * hidden,
        ATTENTION: 4 * squares * dim,
    }
    last = full
    if first_only:
        last = {
            QKV: 4 * tokens * dim**2 + 2 * count * dim**2,
            OUT: 2 * count * dim**2,
            FFN_IN: 2 * count * dim * hidden,
            FFN_OUT: 2 * count * dim * hidden,
            ATTENTION: 4 * tokens * dim,
        }
    return {name: (config.n_layers - 1) * full[name] + last[name] for name in full}


def floor_seconds(flops: Mapping[str, float], rates: Mapping[str, float]) -> float:
    """Seconds that the matrix products alone take; attention counts at the best rate of any shape.

    Args:
        flops: From :func:`forward_flops`.
        rates: FLOPs a second by name of the linear layer.
    """
    best = max(rates.values())
    return sum(count / rates.get(name, best) for name, count in flops.items())
