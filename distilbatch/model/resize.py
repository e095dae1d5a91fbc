"""Embeddings and decoders of another number of rows: old rows kept, new ones drawn, all on the device they were on."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def resize_embedding(old: nn.Embedding, num_rows: int, *, std: float) -> nn.Embedding:
    """Return an embedding with the first rows of ``old``, and normal ones behind them if there are more."""
    weight = old.weight
    new = nn.Embedding(
        num_rows, old.embedding_dim, padding_idx=old.padding_idx, device=weight.device, dtype=weight.dtype
    )
    new.weight.copy_(_resize(weight, num_rows, std=std))
    new.weight.requires_grad = weight.requires_grad
    return new


@torch.no_grad()
def resize_decoder(old: nn.Linear, num_rows: int, *, std: float) -> nn.Linear:
    """Return a linear layer with the first outputs of ``old``, and normal ones without bias behind them."""
    weight = old.weight
    new = nn.Linear(old.in_features, num_rows, device=weight.device, dtype=weight.dtype)
    new.weight.copy_(_resize(weight, num_rows, std=std))
    new.bias.copy_(_resize(old.bias, num_rows, std=0.0))
    return new


def sinusoidal_positions(num_rows: int, dim: int) -> Tensor:
    """Return ``(num_rows, dim)`` float64: sines in even columns, cosines in odd, of falling frequency."""
    positions = torch.arange(num_rows, dtype=torch.float64)
    columns = torch.arange(dim)
    angles = positions[:, None] / 10_000 ** (2 * (columns // 2) / dim)
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos())


def _resize(old: Tensor, num_rows: int, *, std: float) -> Tensor:
    added = old.new_empty(max(0, num_rows - len(old)), *old.shape[1:]).normal_(0.0, std)
    return torch.cat([old[:num_rows], added])
