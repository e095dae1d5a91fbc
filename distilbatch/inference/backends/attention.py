"""Attention in steps on reused memory, where torch's fused kernel for CPUs is slower.

``scaled_dot_product_attention`` sums in float32 whatever its inputs are, and spends some microseconds on each head of
each document. Two batched products and a softmax run at the rate of the matrix units, bfloat16 ones too, if they need
not allocate and fault in a new score matrix for each step.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from typing_extensions import override

from distilbatch.model.attention import Attention, runs_of_heads, sdpa_attention
from distilbatch.model.packed import Layout

_SCORE_BYTES = 4 << 20  # of the scores under way; they stay in the caches
# In float32, steps took 0.4 to 0.8 times as long for heads of this many numbers or fewer (AVX2, 2 threads), as much for
# one and a half times that, and longer beyond; their fixed cost is that of four such documents.
_SHORT_HEAD = 1024
_FEW_DOCUMENTS = 4


class Workspace(threading.local):
    """Memory that is used again: one buffer a name and thread, as large as was ever needed."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return uninitialised memory of a shape, valid until the name is taken again."""
        size = 1
        for length in shape:
            size *= length
        buffer = self._buffers.get((name, dtype))
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[name, dtype] = torch.empty(size, dtype=dtype)
        return buffer[:size].view(shape)


class SteppedAttention(Attention):
    """Products, softmax, products, some heads at a time.

    Args:
        workspace: Its memory; attention layers that run one after another share it.
        only_short: Whether runs of long documents, and of few, are left to torch's fused kernel.
    """

    def __init__(self, workspace: Workspace, *, only_short: bool = False) -> None:
        self._workspace = workspace
        self._only_short = only_short

    @override
    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, layout: Layout, n_heads: int, dropout_p: float
    ) -> tuple[Tensor, Tensor | None]:
        if layout.key_mask is not None:
            return sdpa_attention(q, k, v, layout=layout, n_heads=n_heads, dropout_p=dropout_p)
        context = torch.empty(q.shape, dtype=q.dtype)
        start = 0
        for qh, kh, vh, _mask in runs_of_heads(q, k, v, layout=layout, n_heads=n_heads):
            num_docs, _, q_len, _ = qh.shape
            stop = start + num_docs * q_len
            out = context[start:stop].view(num_docs, q_len, n_heads, -1).transpose(1, 2)
            if self._only_short and (num_docs < _FEW_DOCUMENTS or kh[0, 0].numel() > _SHORT_HEAD):
                out.copy_(F.scaled_dot_product_attention(qh, kh, vh))
            else:
                self._attend(qh, kh, vh, out=out)
            start = stop
        return context, None

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, *, out: Tensor) -> None:
        """All four ``(n, heads, length, head size)``, strided."""
        num_docs, n_heads, q_len, size = q.shape
        k_len = k.shape[2]
        step = max(1, _SCORE_BYTES // (n_heads * q_len * k_len * q.element_size()))
        for first in range(0, num_docs, step):
            part = slice(first, min(first + step, num_docs))
            batch = (part.stop - first) * n_heads
            queries, keys, values = (self._flat(name, x[part]) for name, x in (("q", q), ("k", k), ("v", v)))
            scores = self._workspace.take("scores", (batch, q_len, k_len), q.dtype)
            found = self._workspace.take("context", (batch, q_len, size), q.dtype)
            torch.bmm(queries.mul_(size**-0.5), keys.transpose(1, 2), out=scores)
            torch.softmax(scores, -1, out=scores)
            torch.bmm(scores, values, out=found)
            out[part].copy_(found.view(-1, n_heads, q_len, size))

    def _flat(self, name: str, x: Tensor) -> Tensor:
        """Copy ``(n, heads, length, size)`` to ``(n * heads, length, size)``, contiguous."""
        flat = self._workspace.take(name, tuple(x.shape), x.dtype)
        flat.copy_(x)
        return flat.view(-1, *x.shape[2:])
