"""The contract of a backend."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn


class Backend(Protocol):
    """Prepares a model for inference on one device."""

    def prepare(self, model: nn.Module, *, device: torch.device, dtype: torch.dtype) -> None:
        """Move the model to the device and format, and swap the layers this backend has kernels for.

        The model is changed in place and stays usable through its own forward.
        """
