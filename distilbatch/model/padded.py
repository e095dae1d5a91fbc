"""``(B, S)`` inputs as the reference takes them: checked, laid end to end, and the way back to the grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distilbatch.errors import ConfigError
from distilbatch.model.packed import Layout


@dataclass(frozen=True)
class PaddedInputs:
    """The arguments of ``forward`` that describe B documents padded to S tokens.

    Args:
        input_ids: ``(B, S)`` int; this or ``inputs_embeds``.
        attention_mask: ``(B, S)``, nonzero for tokens to attend to, None for all.
        inputs_embeds: ``(B, S, H)`` word vectors.
        position_ids: ``(B, S)`` or ``(1, S)``, None for 0 to S-1.
    """

    input_ids: Tensor | None
    attention_mask: Tensor | None
    inputs_embeds: Tensor | None
    position_ids: Tensor | None

    def __post_init__(self) -> None:
        if (self.input_ids is None) == (self.inputs_embeds is None):
            raise ConfigError(
                "forward",
                expected="exactly one of input_ids and inputs_embeds",
                found="neither" if self.input_ids is None else "both",
            )
        words = self.words
        if words.dim() != (2 if words is self.input_ids else 3) or words.is_floating_point() != (words.dim() == 3):
            raise ConfigError(
                "forward: the words",
                expected="input_ids, integers of shape (B, S), or inputs_embeds, floats of shape (B, S, H)",
                found=f"{str(words.dtype).removeprefix('torch.')} of shape {tuple(words.shape)}",
            )
        _check("attention_mask", self.attention_mask, {self.shape})
        _check("position_ids", self.position_ids, {self.shape, (1, self.shape[1])})

    @property
    def words(self) -> Tensor:
        """``(B, S)`` ids or ``(B, S, H)`` vectors, whichever was given."""
        words = self.inputs_embeds if self.input_ids is None else self.input_ids
        if words is None:
            raise ConfigError("forward", expected="input_ids or inputs_embeds", found="neither")
        return words

    @property
    def shape(self) -> tuple[int, int]:
        """B and S."""
        return self.words.shape[0], self.words.shape[1]

    def positions(self) -> Tensor:
        """``(B, S)`` positions: as given, or counted from 0 over masked places too."""
        given = self.position_ids
        if given is None:
            given = torch.arange(self.shape[1], device=self.words.device)[None]
        return given.expand(self.shape)

    def mask(self) -> Tensor | None:
        """``(B, S)`` bool, True for tokens to attend to; None where that is all of them."""
        if self.attention_mask is None:
            return None
        mask = self.attention_mask.to(self.words.device).bool()
        return None if bool(mask.all()) else mask


def check_length(length: int, *, limit: int) -> None:
    """Refuse documents that have more tokens than there are positions.

    Raises:
        ConfigError: ``length`` is above ``limit``.
    """
    if length > limit:
        raise ConfigError(
            "a document is too long",
            expected=f"at most {limit} tokens (max_position_embeddings)",
            found=f"{length} tokens",
            remedy="truncate it or cut it into windows",
        )


def _check(name: str, value: Tensor | None, shapes: set[tuple[int, int]]) -> None:
    if value is not None and tuple(value.shape) not in shapes:
        expected = " or ".join(map(str, sorted(shapes, reverse=True)))
        raise ConfigError(f"forward: {name}", expected=f"the shape {expected}", found=f"{tuple(value.shape)}")


@dataclass(frozen=True)
class Grid:
    """How a ``(B, S)`` input was laid end to end, and the way back.

    Args:
        shape: B and S.
        kept: ``(T,)`` places of the packed tokens in the flattened grid; None where all B * S were kept.
    """

    shape: tuple[int, int]
    kept: Tensor | None = None

    def flatten(self, x: Tensor) -> Tensor:
        """Map ``(B, S, ...)`` to ``(T, ...)``."""
        flat = x.flatten(0, 1)
        return flat if self.kept is None else flat[self.kept]

    def restore(self, x: Tensor) -> Tensor:
        """Map ``(T, ...)`` to ``(B, S, ...)``, zero where tokens were dropped."""
        if self.kept is not None:
            x = x.new_zeros(self.shape[0] * self.shape[1], *x.shape[1:]).index_copy(0, self.kept, x)
        return x.view(*self.shape, *x.shape[1:])


@dataclass(frozen=True)
class Encoded:
    """What a head gets from the encoder.

    Args:
        states: Last-layer output: ``(T, H)``, or ``(B, H)`` of the first tokens.
        grid: The way back to ``(B, S)``.
        hidden_states: See ``ModelOutput``.
        attentions: See ``ModelOutput``.
    """

    states: Tensor
    grid: Grid
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None


def lay_out(inputs: PaddedInputs, *, unpad: bool, needed: Tensor | None) -> tuple[Grid, Layout]:
    """Lay padded documents end to end.

    Args:
        inputs: The documents.
        unpad: Drop masked tokens; otherwise all B * S stay and nobody attends to the masked ones.
        needed: ``(B, S)`` bool, places that stay although they are masked, because their output is used.
    """
    batch, length = inputs.shape
    mask = inputs.mask()
    if mask is None:
        return Grid(inputs.shape), Layout.of_lengths([length] * batch)
    if not unpad:
        return Grid(inputs.shape), Layout.of_lengths([length] * batch, key_mask=mask.flatten())
    keep = mask if needed is None else mask | needed
    kept = keep.flatten().nonzero().squeeze(1)
    attended = mask.flatten()[kept]
    lengths = keep.sum(1).tolist()
    return Grid(inputs.shape, kept), Layout.of_lengths(lengths, key_mask=None if bool(attended.all()) else attended)
