"""The parts of a transformer block with fewer, larger steps; they go where layers.py says that a backend may put them.

The same functions of the same weights as the parts they replace, without dropout and gradients.
"""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

from distilbatch.inference.backends.linears import MakeLinear
from distilbatch.inference.backends.operators import NOTHING, PostOp
from distilbatch.model.activations import Activation
from distilbatch.model.attention import Attention
from distilbatch.model.layers import FeedForward, SelfAttention
from distilbatch.model.packed import Layout

_POST_OPS = {
    "gelu": PostOp("gelu", "none"),
    "gelu_python": PostOp("gelu", "none"),
    "gelu_new": PostOp("gelu", "tanh"),
    "gelu_accurate": PostOp("gelu", "tanh"),
    "gelu_fast": PostOp("gelu", "tanh"),
    "gelu_python_tanh": PostOp("gelu", "tanh"),
    "gelu_pytorch_tanh": PostOp("gelu", "tanh"),
    "relu": PostOp("relu"),
}
"""Activations that kernels compute in the pass of the linear layer before them, by their names in a config."""

NEARLY_NONNEGATIVE = (*_POST_OPS, "silu", "swish", "relu6", "sigmoid", "mish")
"""Activations whose outputs are hardly below 0."""


class FusedSelfAttention(nn.Module):
    """Self-attention with one product for queries, keys and values, or one for keys and values where few tokens ask.

    Args:
        attention: What it replaces.
        project: Makes the layers before the attention.
        out: Makes the layer behind it.
        attend: The attention kernel.
        few_queries: Whether the block is asked for some rows only, as the last one is.
    """

    def __init__(
        self, attention: SelfAttention, *, project: MakeLinear, out: MakeLinear, attend: Attention, few_queries: bool
    ) -> None:
        super().__init__()
        query, keys_values = attention.q_lin, (attention.k_lin, attention.v_lin)
        self.n_heads = attention.n_heads
        self.attend = attend
        self.q_lin = project([query], NOTHING) if few_queries else None
        self.in_lin = project(keys_values if few_queries else [query, *keys_values], NOTHING)
        self.out_lin = out([attention.out_lin], NOTHING)

    @override
    def forward(self, queries: Tensor, hidden: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """Map ``(Q, H)`` queries and ``(T, H)`` tokens to ``(Q, H)``, and the attention weights if there are any."""
        projected = self.in_lin(hidden)
        if self.q_lin is None:
            q, k, v = projected.chunk(3, dim=1)
        else:
            q = self.project_queries(queries)
            k, v = projected.chunk(2, dim=1)
        context, weights = self.attend(q, k, v, layout=layout, n_heads=self.n_heads, dropout_p=0.0)
        return self.out_lin(context), weights

    def project_queries(self, queries: Tensor) -> Tensor:
        """Map ``(Q, H)`` states to the queries ``(Q, H)``; only where few tokens ask."""
        if self.q_lin is None:
            raise TypeError("queries, keys and values are one layer here")
        projected: Tensor = self.q_lin(queries)
        return projected


class FusedFeedForward(nn.Module):
    """The feed-forward layers with the activation in the first one's pass, where there is a kernel for it.

    Args:
        ffn: What it replaces.
        activation: The config's name of the activation; anything else if it has none.
        first: Makes the layer before the activation.
        second: Makes the layer behind it.
    """

    def __init__(self, ffn: FeedForward, *, activation: object, first: MakeLinear, second: MakeLinear) -> None:
        super().__init__()
        post = _POST_OPS.get(activation) if isinstance(activation, str) else None
        self.activation: Activation | None = ffn.activation if post is None else None
        self.lin1 = first([ffn.lin1], post or NOTHING)
        self.lin2 = second([ffn.lin2], NOTHING)

    @override
    def forward(self, hidden: Tensor) -> Tensor:
        """Map ``(Q, H)`` to ``(Q, H)``."""
        inner = self.lin1(hidden)
        out: Tensor = self.lin2(inner if self.activation is None else self.activation(inner))
        return out
