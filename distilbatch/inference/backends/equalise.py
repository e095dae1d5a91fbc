"""Inputs of int8 layers with their channels moved and scaled alike, so that a few loud ones do not take all the levels.

A trained encoder has hidden channels that are ten times as loud as the others in every text, and a byte's steps are as
wide as the loudest channel wants them. For a centre ``c`` and factors ``f`` of the channels, ``W x + b = (W / f)
((x - c) f) + (b + W c)``: exact, and the factors share the range out between inputs and weights as SmoothQuant does
(arXiv 2211.10438, equation 4). Loud channels are the model's and not the text's, so they show on any tokens: there is
no calibration set.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distilbatch.model.modeling import DistilBertModel
from distilbatch.model.packed import PackedTokens

_DOCUMENTS = 8
_LENGTH = 32
_INPUT_SHARE = 0.6  # of a channel's range that the weights take over; best of 0.4 to 0.7 on MiniLM
_FLOOR = 1e-4  # of the largest: silent channels would get factors without end


class Channels(NamedTuple):
    """The inputs of a linear layer.

    Args:
        centre: ``(in,)`` means.
        reach: ``(in,)`` largest distances from them.
    """

    centre: Tensor
    reach: Tensor

    def factors(self, weight: Tensor) -> Tensor:
        """What to multiply inputs with, and divide the columns of ``(out, in)`` weights by: ``(in,)``."""
        inputs, weights = _floored(self.reach), _floored(weight.abs().amax(0))
        return weights ** (1 - _INPUT_SHARE) / inputs**_INPUT_SHARE


def observe_channels(encoder: DistilBertModel) -> dict[nn.Module, Channels]:
    """Run random tokens, the same in every process, and look at the inputs of attention and feed-forward layers.

    Args:
        encoder: In float32, with its own layers.

    Returns:
        Of each block's ``attention`` and ``ffn``.
    """
    found: dict[nn.Module, Channels] = {}
    hooks = [
        block.get_submodule(path).register_forward_pre_hook(partial(_note, found, block.get_submodule(name)))
        for block in encoder.transformer.layer
        for name, path in (("attention", "attention.q_lin"), ("ffn", "ffn.lin1"))
    ]
    config = encoder.config
    length = min(_LENGTH, config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.vocab_size, (_DOCUMENTS * length,), generator=generator)
    try:
        with torch.no_grad():
            encoder.forward_packed(PackedTokens.from_lengths(ids, [length] * _DOCUMENTS))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _note(found: dict[nn.Module, Channels], part: nn.Module, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    rows = inputs[0]
    centre = rows.mean(0)
    found[part] = Channels(centre, (rows - centre).abs().amax(0))


def _floored(sizes: Tensor) -> Tensor:
    return sizes.clamp(min=max(_FLOOR * float(sizes.max()), torch.finfo(sizes.dtype).tiny))
