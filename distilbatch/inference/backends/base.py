"""The contract of a backend."""

from __future__ import annotations

from typing import Protocol

import torch

from distilbatch.model.modeling import PreTrainedModel


class Backend(Protocol):
    """Prepares models for inference on one device."""

    def prepare(self, model: PreTrainedModel, *, device: torch.device, dtype: torch.dtype) -> None:
        """Move the model to the device and format, and swap the layers this backend has kernels for.

        The model is changed in place and keeps its own forward, without gradients. A model, or an encoder that
        several models share, may be prepared twice.
        """
