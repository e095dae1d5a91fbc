"""CUDA devices: one product for queries, keys and values, and attention for documents of any lengths in one call."""

from __future__ import annotations

import logging
import warnings

import torch
from typing_extensions import override

from distilbatch.inference.backends.base import Backend
from distilbatch.inference.backends.compiled import compile_blocks
from distilbatch.inference.backends.fused import FusedSelfAttention
from distilbatch.inference.backends.linears import MergedLinear
from distilbatch.inference.backends.varlen import choose_attention
from distilbatch.model.layers import SelfAttention, TransformerBlock
from distilbatch.model.modeling import PreTrainedModel

_log = logging.getLogger("distilbatch")


class CudaBackend(Backend):
    """Swaps the attention of every block; the feed-forward layers are torch's own, whose kernels suit these devices.

    Args:
        compiled: Whether torch compiles what is behind the attention, which takes some time at start.
    """

    def __init__(self, *, compiled: bool = False) -> None:
        self._compiled = compiled

    @override
    def prepare(self, model: PreTrainedModel, *, device: torch.device, dtype: torch.dtype) -> None:
        if dtype is torch.float32:
            _leave_tf32()
        model.to(device=device, dtype=dtype).eval()
        blocks = list(model.encoder.transformer.layer)
        attentions = {block: block.get_submodule("attention") for block in blocks}
        plain = {block: found for block, found in attentions.items() if isinstance(found, SelfAttention)}
        if not plain:  # it was prepared for another head on this encoder
            return
        config = model.config
        attend = choose_attention(device=device, dtype=dtype, n_heads=config.n_heads, width=config.dim)
        for block, attention in plain.items():
            fused = FusedSelfAttention(
                attention, project=MergedLinear, out=MergedLinear, attend=attend, few_queries=block is blocks[-1]
            )
            block.set_submodule("attention", fused)
        if self._compiled:
            compile_blocks(
                [block for block in blocks if isinstance(block, TransformerBlock)], device=device, dtype=dtype
            )


def _leave_tf32() -> None:
    """Let float32 products of this process be exact, for the faster precisions are measured against them.

    Once and not around each launch: the setting is the process's, and threads would put back each other's.
    """
    matmul = torch.backends.cuda.matmul
    if matmul.fp32_precision != "tf32":
        return
    _log.warning(
        "precision float32: TF32, which torch was set to (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, allow_tf32 or "
        "set_float32_matmul_precision), is off in this process from now on; for speed, set engine.precision to auto"
    )
    with warnings.catch_warnings():  # some releases call this way the old one, but after the new one it cannot be read
        warnings.simplefilter("ignore")
        matmul.allow_tf32 = False
