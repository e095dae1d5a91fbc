"""What is read off a head: which rows of the last layer it needs, and what of its output leaves the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from distilbatch.model.modeling import DistilBertForMultipleChoice, PreTrainedModel
from distilbatch.model.packed import PackedTokens

Axis = Literal["documents", "tokens"]
Needs = Literal["first", "all"] | int
"""Rows of the last layer: the first token of each document, all tokens, or the tokens with this id."""


@dataclass(frozen=True)
class Reading:
    """What a readout made of one token batch, still on the device.

    Args:
        values: ``(P, ...)``, P documents or the P needed token rows.
        ids: ``(P, K)`` token ids, or None.
    """

    values: Tensor
    ids: Tensor | None = None


class Readout(Protocol):
    """Reads a head's predictions off the encoder's states."""

    @property
    def needs(self) -> Needs:
        """Which rows of the last layer."""

    @property
    def axis(self) -> Axis:
        """What the values belong to: documents, or the needed token rows."""

    def read(self, model: PreTrainedModel, states: Tensor, packed: PackedTokens) -> Reading:
        """Compute the values.

        Args:
            model: The model with the head.
            states: ``(Q, H)`` last-layer states of the needed rows.
            packed: The documents.
        """


@dataclass(frozen=True)
class SequenceLogits(Readout):
    """Logits ``(N, C)`` of a head on the first token: sequence classification, and multiple choice with C = 1."""

    needs: Needs = "first"
    axis: Axis = "documents"

    @override
    def read(self, model: PreTrainedModel, states: Tensor, packed: PackedTokens) -> Reading:
        if isinstance(model, DistilBertForMultipleChoice):
            return Reading(model.head(states, 1))
        return Reading(_head(model)(states))


@dataclass(frozen=True)
class TokenLogits(Readout):
    """Logits ``(T, C)`` of every token: token classification, and question answering with C = 2."""

    needs: Needs = "all"
    axis: Axis = "tokens"

    @override
    def read(self, model: PreTrainedModel, states: Tensor, packed: PackedTokens) -> Reading:
        return Reading(_head(model)(states))


@dataclass(frozen=True)
class MaskScores(Readout):
    """Probabilities over the vocabulary at ``[MASK]`` tokens: the ``top_k`` best ``(M, K)``, or the targets' alone.

    The softmax runs on the device over the whole vocabulary in float32; only K numbers of it leave the device.

    Args:
        mask_token_id: Which tokens are masks.
        top_k: K.
        targets: Token ids to choose among; empty for the whole vocabulary.
    """

    mask_token_id: int
    top_k: int
    targets: tuple[int, ...] = ()
    axis: Axis = "tokens"

    @property
    @override
    def needs(self) -> Needs:
        return self.mask_token_id

    @override
    def read(self, model: PreTrainedModel, states: Tensor, packed: PackedTokens) -> Reading:
        scores = _head(model)(states).float().softmax(-1)
        targets = None
        if self.targets:
            targets = _on_device(self.targets, scores.device)
            scores = scores[:, targets]
        values, ids = scores.topk(min(self.top_k, scores.shape[1]), dim=-1)
        return Reading(values, ids if targets is None else targets[ids])


@dataclass(frozen=True)
class Embedding(Readout):
    """The encoder's states: pooled over each document ``(N, H)``, or of every token ``(T, H)``.

    Args:
        pooling: ``cls``, ``mean``, ``max`` or ``none``.
    """

    pooling: Literal["cls", "mean", "max", "none"]

    @property
    @override
    def needs(self) -> Needs:
        return "first" if self.pooling == "cls" else "all"

    @property
    @override
    def axis(self) -> Axis:
        return "tokens" if self.pooling == "none" else "documents"

    @override
    def read(self, model: PreTrainedModel, states: Tensor, packed: PackedTokens) -> Reading:
        if self.pooling in {"cls", "none"}:
            return Reading(states)
        parts, start = [], 0
        for num_docs, length in packed.runs:
            run = states[start : start + num_docs * length].view(num_docs, length, -1)
            parts.append(run.float().mean(1) if self.pooling == "mean" else run.amax(1))
            start += num_docs * length
        return Reading(torch.cat(parts))


@lru_cache(maxsize=64)
def _on_device(targets: tuple[int, ...], device: torch.device) -> Tensor:
    """Copied once: each copy would wait for all work under way on the device."""
    return torch.tensor(targets, device=device)


def _head(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """The head's own layers, ``(Q, H)`` to its outputs; every model with a head has them under this name."""
    head: Callable[[Tensor], Tensor] = getattr(model, "head")  # noqa: B009 - nn.Module types attributes as tensors
    return head
