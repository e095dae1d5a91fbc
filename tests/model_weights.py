"""Weights for tests of models: fresh biases are 0, which would hide that a kernel leaves one out."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def draw_biases(model: nn.Module, *, spread: float) -> None:
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.normal_(0.0, spread)
