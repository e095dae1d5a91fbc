"""The plain torch kernels: what every other backend is compared with, and what it falls back to."""

from __future__ import annotations

import torch
from typing_extensions import override

from distilbatch.inference.backends.base import Backend
from distilbatch.model.modeling import PreTrainedModel


class ReferenceBackend(Backend):
    """Leaves every layer as it is."""

    @override
    def prepare(self, model: PreTrainedModel, *, device: torch.device, dtype: torch.dtype) -> None:
        model.to(device=device, dtype=dtype).eval()
