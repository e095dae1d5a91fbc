"""Which backend computes a precision on a device."""

from __future__ import annotations

import logging

import torch

from distilbatch.inference.backends import operators
from distilbatch.inference.backends.base import Backend
from distilbatch.inference.backends.cuda import CudaBackend
from distilbatch.inference.backends.onednn import OneDnnBackend
from distilbatch.inference.backends.reference import ReferenceBackend

_log = logging.getLogger("distilbatch")


def choose_backend(precision: str, device: torch.device, dtype: torch.dtype, *, compiled: bool = False) -> Backend:
    """The fastest backend that is trustworthy here.

    Args:
        precision: float32, bfloat16, float16 or int8, as resolved for the device.
        device: Where it runs.
        dtype: What weights and activations are where they are not int8.
        compiled: Whether torch may compile layers; on CUDA devices only.
    """
    if device.type == "cuda":
        return CudaBackend(compiled=compiled)
    if compiled:
        _log.warning("engine.compile: without effect on %s, whose layers are fused already", device.type)
    if device.type != "cpu":
        return ReferenceBackend()
    if precision == "int8":
        return OneDnnBackend(int8=True)
    return OneDnnBackend() if operators.has_packed_linear(dtype) else ReferenceBackend()
