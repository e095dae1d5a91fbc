"""How queries meet keys: the seam at which a backend may put its own kernel, and the two plain implementations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from distilbatch.model.packed import Layout, Run


class Attention(Protocol):
    """Multi-head attention of every document over its own tokens."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, layout: Layout, n_heads: int, dropout_p: float
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within documents.

        Args:
            q: ``(Q, H)``; rows may be strided, the last dimension is contiguous, in all three.
            k: ``(T, H)``.
            v: ``(T, H)``.
            layout: The documents: runs of equal shape, and the tokens nobody may attend to.
            n_heads: Divides H; scores are scaled by ``(H / n_heads) ** -0.5``.
            dropout_p: Probability of dropping an attention weight; 0 outside training.

        Returns:
            The context ``(Q, H)``, and where there is exactly one run the weights ``(N, n_heads, q_len, k_len)``
            or None if the implementation does not have them.
        """
        ...


def sdpa_attention(
    q: Tensor, k: Tensor, v: Tensor, *, layout: Layout, n_heads: int, dropout_p: float
) -> tuple[Tensor, Tensor | None]:
    """Attend through torch's fused kernels, one call a run; unmasked unless the layout has a key mask."""
    parts = [
        _join(F.scaled_dot_product_attention(qh, kh, vh, attn_mask=mask, dropout_p=dropout_p))
        for qh, kh, vh, mask in runs_of_heads(q, k, v, layout=layout, n_heads=n_heads)
    ]
    return _concat(parts, like=q), None


def eager_attention(
    q: Tensor, k: Tensor, v: Tensor, *, layout: Layout, n_heads: int, dropout_p: float
) -> tuple[Tensor, Tensor | None]:
    """Attend step by step, which is slower and has the weights to show."""
    parts: list[Tensor] = []
    weights: list[Tensor] = []
    for qh, kh, vh, mask in runs_of_heads(q, k, v, layout=layout, n_heads=n_heads):
        scores = qh @ kh.transpose(2, 3) * qh.shape[3] ** -0.5
        if mask is not None:
            # The lowest finite score, not -inf: a document without any key then attends evenly and is not NaN.
            scores = scores + torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, torch.finfo(q.dtype).min)
        weights.append(F.dropout(scores.softmax(-1), dropout_p, training=dropout_p > 0))
        parts.append(_join(weights[-1] @ vh))
    return _concat(parts, like=q), weights[0] if len(weights) == 1 else None


ATTENTION: dict[str, Attention] = {"eager": eager_attention, "sdpa": sdpa_attention, "packed": sdpa_attention}
"""How ``(B, S)`` inputs run: ``eager`` and ``sdpa`` keep all B * S tokens, ``packed`` drops the masked ones first."""


def runs_of_heads(
    q: Tensor, k: Tensor, v: Tensor, *, layout: Layout, n_heads: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """Views ``(n, heads, L, head size)`` of each run that asks anything, and its mask ``(n, 1, 1, k_len)`` if any."""
    q_start = k_start = 0
    for run in layout.runs:
        q_stop, k_stop = q_start + run.num_docs * run.q_len, k_start + run.num_docs * run.k_len
        if q_stop > q_start:
            mask = None
            if layout.key_mask is not None:
                mask = layout.key_mask[k_start:k_stop].view(run.num_docs, 1, 1, run.k_len)
            keys, values = (_heads(x[k_start:k_stop], run, n_heads) for x in (k, v))
            yield _heads(q[q_start:q_stop], run, n_heads), keys, values, mask
        q_start, k_start = q_stop, k_stop


def _heads(x: Tensor, run: Run, n_heads: int) -> Tensor:
    return x.view(run.num_docs, len(x) // run.num_docs, n_heads, -1).transpose(1, 2)


def _join(context: Tensor) -> Tensor:
    # (n, heads, L, head size) -> (n * L, H)
    return context.transpose(1, 2).flatten(0, 1).flatten(1)


def _concat(parts: list[Tensor], *, like: Tensor) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if parts else torch.zeros_like(like)
