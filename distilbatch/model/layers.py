"""The layers of DistilBERT, bottom to top, on packed tokens ``(T, H)``; named as in Hugging Face's state dict.

Where a backend may put its own parts, on a loaded model, without touching the forward:

    any ``nn.Linear`` (``q_lin k_lin v_lin out_lin lin1 lin2``, heads')  a module (T, in) -> (T, out)
    ``block.attention.attend``                                          an ``Attention`` (see attention.py)
    ``block.attention`` (to fuse q, k, v)      a module (queries, hidden, layout) -> (Q, H), weights or None
    ``block.ffn`` (to fuse the activation)     a module (Q, H) -> (Q, H)
    ``block.finish`` (to fuse all behind attention)                     a ``Finish``, from context and queries on
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from typing_extensions import override

from distilbatch.model.activations import make_activation
from distilbatch.model.attention import Attention, sdpa_attention
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.packed import Layout, Rows, Selection
from distilbatch.model.resize import resize_embedding, sinusoidal_positions

LAYER_NORM_EPS = 1e-12


class Embeddings(nn.Module):
    """Word plus position, normalised."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        # With weights given, torch draws none of its own, which draw_weights would only draw again.
        words = torch.empty(config.vocab_size, config.dim)
        positions = torch.empty(config.max_position_embeddings, config.dim)
        self.word_embeddings = nn.Embedding(
            config.vocab_size, config.dim, padding_idx=config.pad_token_id, _weight=words
        )
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.dim, _weight=positions)
        self.LayerNorm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def resize_positions(self, config: DistilBertConfig) -> None:
        """Bring the position embedding to the size in ``config``."""
        self.position_embeddings = resize_embedding(
            self.position_embeddings, config.max_position_embeddings, std=config.initializer_range
        )
        self.fix_positions(config)

    @torch.no_grad()
    def fix_positions(self, config: DistilBertConfig) -> None:
        """Compute the positions if they are sinusoidal: a formula, not weights, and nothing trains them."""
        if config.sinusoidal_pos_embds:
            weight = self.position_embeddings.weight
            weight.copy_(sinusoidal_positions(*weight.shape))
            weight.requires_grad = False

    @override
    def forward(self, words: Tensor, position_ids: Tensor) -> Tensor:
        """Map ``(T,)`` word ids, or ``(T, H)`` word vectors, and ``(T,)`` positions to ``(T, H)``."""
        vectors = words if words.is_floating_point() else self.word_embeddings(words)
        hidden: Tensor = self.dropout(self.LayerNorm(vectors + self.position_embeddings(position_ids)))
        return hidden


class SelfAttention(nn.Module):
    """Multi-head attention of ``Q`` queries over the tokens of their own documents."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout_p = config.attention_dropout
        self.attend: Attention = sdpa_attention
        self.q_lin = nn.Linear(config.dim, config.dim)
        self.k_lin = nn.Linear(config.dim, config.dim)
        self.v_lin = nn.Linear(config.dim, config.dim)
        self.out_lin = nn.Linear(config.dim, config.dim)

    @override
    def forward(self, queries: Tensor, hidden: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """Map ``(Q, H)`` queries and ``(T, H)`` tokens to ``(Q, H)``, and the attention weights if there are any."""
        context, weights = self.attend(
            self.q_lin(queries),
            self.k_lin(hidden),
            self.v_lin(hidden),
            layout=layout,
            n_heads=self.n_heads,
            dropout_p=self.dropout_p if self.training else 0.0,
        )
        return self.out_lin(context), weights


class FeedForward(nn.Module):
    """Two linear layers around the activation."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.lin1 = nn.Linear(config.dim, config.hidden_dim)
        self.lin2 = nn.Linear(config.hidden_dim, config.dim)
        self.activation = make_activation(config)
        self.dropout = nn.Dropout(config.dropout)

    @override
    def forward(self, hidden: Tensor) -> Tensor:
        """Map ``(Q, H)`` to ``(Q, H)``."""
        out: Tensor = self.dropout(self.lin2(self.activation(self.lin1(hidden))))
        return out


class Finish(Protocol):
    """What a block does behind its attention."""

    def __call__(self, block: TransformerBlock, context: Tensor, queries: Tensor) -> Tensor:
        """Map what was attended to, ``(Q, H)``, and the tokens that asked, ``(Q, H)``, to the block's output."""
        ...


def finish_block(block: TransformerBlock, context: Tensor, queries: Tensor) -> Tensor:
    """Residual, norm, feed-forward, residual, norm: the plain implementation."""
    attended = block.sa_layer_norm(context + queries)
    out: Tensor = block.output_layer_norm(block.ffn(attended) + attended)
    return out


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each with a residual and a norm behind it."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.finish: Finish = finish_block
        self.attention = SelfAttention(config)
        self.sa_layer_norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.ffn = FeedForward(config)
        self.output_layer_norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)

    @override
    def forward(self, hidden: Tensor, layout: Layout, rows: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map ``(T, H)`` to the outputs ``(Q, H)`` of the token rows ``(Q,)``, or of all, and the attention weights."""
        queries = hidden if rows is None else hidden[rows]
        context, weights = self.attention(queries, hidden, layout)
        return self.finish(self, context, queries), weights


class Trace:
    """Hidden states ``(T, H)`` and attention weights of one pass, block by block."""

    def __init__(self) -> None:
        self.hidden_states: list[Tensor] = []
        self.attentions: list[Tensor] = []

    def add(self, hidden: Tensor, weights: Tensor | None) -> None:
        """Append the output of a block."""
        self.hidden_states.append(hidden)
        if weights is not None:
            self.attentions.append(weights)


class Transformer(nn.Module):
    """The blocks; the last one computes only the rows that are needed."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layers))

    @override
    def forward(self, hidden: Tensor, layout: Layout, *, rows: Rows = None, trace: Trace | None = None) -> Tensor:
        """Map ``(T, H)`` to ``(Q, H)``: Q is T without ``rows``. ``trace`` collects what each block saw and made."""
        *first, last = self.layer
        if trace is not None:
            trace.hidden_states.append(hidden)
        for block in first:
            hidden, weights = block(hidden, layout)
            if trace is not None:
                trace.add(hidden, weights)
        index = None
        if rows is not None:
            selected = rows if isinstance(rows, Selection) else layout.select(rows, device=hidden.device)
            index, layout = selected
        hidden, weights = last(hidden, layout, index)
        if trace is not None:
            trace.add(hidden, weights)
        return hidden


@torch.no_grad()
def draw_weights(modules: Iterable[nn.Module], *, std: float) -> None:
    """Draw fresh weights, normal, with zero biases and padding rows; leave other modules as they are."""
    for module in modules:
        # On the meta device there is nothing to draw, and torch would import sympy for it.
        if isinstance(module, (nn.Linear, nn.Embedding)) and not module.weight.is_meta:
            module.weight.normal_(0.0, std)
        if isinstance(module, nn.Linear):
            module.bias.zero_()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx].zero_()
