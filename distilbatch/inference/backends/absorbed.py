"""Self-attention of one query a document without a key and a value for each of its tokens.

The last block computes first tokens only. For one query q, ``q . (W_k x + b_k) = (W_k^T q) . x + q . b_k``, whose last
term is the same for all tokens and falls out of the softmax; and ``sum p (W_v x + b_v) = W_v (sum p x) + b_v``. So both
weights are applied once a document and not once a token: equal in real arithmetic, 3 % of the work less (as in
multi-head latent attention, arXiv 2405.04434, section 2.1.2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from distilbatch.inference.backends.fused import FusedSelfAttention
from distilbatch.model.layers import SelfAttention
from distilbatch.model.packed import Layout


class AbsorbedSelfAttention(nn.Module):
    """Takes the short way where every document has exactly one query, and the ordinary one elsewhere.

    Args:
        attention: What it replaces.
        ordinary: The ordinary way; made with ``few_queries``.
    """

    def __init__(self, attention: SelfAttention, ordinary: FusedSelfAttention) -> None:
        super().__init__()
        heads, width = attention.n_heads, attention.k_lin.in_features
        size = width // heads
        self.ordinary = ordinary
        self._n_heads = heads
        self._key_weight = attention.k_lin.weight.detach().view(heads, size, width) * size**-0.5
        self._value_weight = attention.v_lin.weight.detach().clone().view(heads, size, width)
        self._value_bias = attention.v_lin.bias.detach().clone()

    @override
    def forward(self, queries: Tensor, hidden: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """Map ``(Q, H)`` queries and ``(T, H)`` tokens to ``(Q, H)``, and the attention weights if there are any."""
        if layout.key_mask is not None or any(run.q_len != 1 for run in layout.runs):
            out: tuple[Tensor, Tensor | None] = self.ordinary(queries, hidden, layout)
            return out
        q = self.ordinary.project_queries(queries).view(len(queries), self._n_heads, -1)
        q = q.to(hidden.dtype)
        absorbed = torch.bmm(q.transpose(0, 1), self._key_weight).transpose(0, 1)  # (N, heads, H)
        mixed = self._mix(absorbed, hidden, layout)
        context = torch.bmm(mixed.transpose(0, 1), self._value_weight.transpose(1, 2))  # (heads, N, head size)
        flat = context.transpose(0, 1).flatten(1) + self._value_bias
        return self.ordinary.out_lin(flat), None

    def _mix(self, absorbed: Tensor, hidden: Tensor, layout: Layout) -> Tensor:
        """Average each document's tokens with the weights of each head: ``(N, heads, H)``."""
        mixed = torch.empty_like(absorbed, memory_format=torch.contiguous_format)
        document = token = 0
        for num_docs, _, length in layout.runs:
            tokens = hidden[token : token + num_docs * length].view(num_docs, length, -1)
            these = slice(document, document + num_docs)
            scores = torch.bmm(tokens, absorbed[these].transpose(1, 2))  # (n, L, heads)
            torch.bmm(scores.softmax(1).transpose(1, 2), tokens, out=mixed[these])
            document, token = document + num_docs, token + num_docs * length
        return mixed
