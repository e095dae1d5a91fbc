"""CPUs through oneDNN: prepacked float32 and bfloat16 linear layers, int8 ones, and attention to go with each.

oneDNN generates its kernels for the CPU at hand, whoever made it; torch's default float32 product comes from a vendor's
library, which takes its slow path on other vendors' CPUs.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from typing_extensions import override

from distilbatch.inference.backends import operators
from distilbatch.inference.backends.absorbed import AbsorbedSelfAttention
from distilbatch.inference.backends.attention import SteppedAttention, Workspace
from distilbatch.inference.backends.base import Backend
from distilbatch.inference.backends.equalise import Channels, observe_channels
from distilbatch.inference.backends.fused import NEARLY_NONNEGATIVE, FusedFeedForward, FusedSelfAttention
from distilbatch.inference.backends.linears import Int8Linear, MakeLinear, PackedLinear
from distilbatch.inference.backends.operators import NOTHING
from distilbatch.model.attention import Attention
from distilbatch.model.layers import FeedForward, SelfAttention
from distilbatch.model.modeling import PreTrainedModel


class OneDnnBackend(Backend):
    """Swaps attention and feed-forward of every block.

    Args:
        int8: Whether to quantise the linear layers of the blocks. Embeddings, norms, residuals and heads keep the
            format of the model.
    """

    def __init__(self, *, int8: bool = False) -> None:
        self._int8 = int8

    @override
    def prepare(self, model: PreTrainedModel, *, device: torch.device, dtype: torch.dtype) -> None:
        model.to(device=device, dtype=dtype).eval()
        attend = _attention(torch.bfloat16 if self._halves() else dtype)
        blocks: list[nn.Module] = list(model.encoder.transformer.layer)
        plain = all(isinstance(block.get_submodule("ffn"), FeedForward) for block in blocks)
        channels = observe_channels(model.encoder) if self._int8 and plain else {}
        for block in blocks:
            ffn, attention = block.get_submodule("ffn"), block.get_submodule("attention")
            if isinstance(attention, SelfAttention):  # else it was prepared for another head on this encoder
                last = block is blocks[-1]
                block.set_submodule("attention", self._fuse(attention, attend, channels.get(attention), last=last))
            if isinstance(ffn, FeedForward):
                block.set_submodule("ffn", self._fuse_ffn(ffn, model.config.activation, channels.get(ffn)))

    def _fuse(self, attention: SelfAttention, attend: Attention, channels: Channels | None, *, last: bool) -> nn.Module:
        project = self._linear(torch.bfloat16 if self._halves() else torch.float32, channels)
        out = self._linear(torch.float32)
        fused = FusedSelfAttention(attention, project=project, out=out, attend=attend, few_queries=last)
        return AbsorbedSelfAttention(attention, fused) if last else fused

    def _fuse_ffn(self, ffn: FeedForward, activation: object, channels: Channels | None) -> FusedFeedForward:
        first, second = self._linear(torch.float32, channels), self._linear(torch.float32)
        if self._int8:
            second = partial(Int8Linear, nonnegative=activation in NEARLY_NONNEGATIVE)
        return FusedFeedForward(ffn, activation=activation, first=first, second=second)

    def _halves(self) -> bool:
        """Whether int8 layers give bfloat16 to the attention, which would else cost more than what they save."""
        return self._int8 and operators.bfloat16_is_native() and operators.has_int8(torch.bfloat16, NOTHING)

    def _linear(self, output: torch.dtype, channels: Channels | None = None) -> MakeLinear:
        return partial(Int8Linear, dtype=output, channels=channels) if self._int8 else PackedLinear


def _attention(dtype: torch.dtype) -> Attention:
    return SteppedAttention(Workspace(), only_short=dtype is not torch.bfloat16)
