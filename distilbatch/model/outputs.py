"""What ``forward`` returns on ``(B, S)`` inputs: named fields that also read as the tuple of those that are set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


class ModelOutput:
    """Fields by name (``out.logits``, ``out["logits"]``), by place among the set ones (``out[0]``), or as a tuple.

    ``in``, ``keys``, ``items`` and ``get`` are those of a mapping of the fields that are set, so that ``dict(out)``
    works; iteration gives the fields themselves.

    All subclasses end in ``hidden_states``, ``n_layers + 1`` tensors ``(B, S, H)`` (the embeddings, then each
    block's output), and ``attentions``, ``n_layers`` tensors ``(B, n_heads, S, S)`` after dropout.
    """

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are not None, in order."""
        return tuple(value for value in vars(self).values() if value is not None)

    def __getitem__(self, key: int | slice | str) -> Any:  # noqa: ANN401 - a tensor, or a tuple of them
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if vars(self).get(key) is None:
            raise KeyError(key)
        return vars(self)[key]

    def __len__(self) -> int:
        """Fields that are set."""
        return len(self.to_tuple())

    def __contains__(self, key: object) -> bool:
        """Whether the field of that name is set."""
        return key in self.keys()

    def keys(self) -> list[str]:
        """Return the names of the fields that are set, in order."""
        return [name for name, value in vars(self).items() if value is not None]

    def items(self) -> list[tuple[str, Any]]:
        """Return the fields that are set, by name."""
        return list(zip(self.keys(), self.to_tuple(), strict=True))

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 - as in __getitem__
        """Return a field by name, or ``default`` where it is not set."""
        return self[key] if key in self.keys() else default


@dataclass
class EncoderOutput(ModelOutput):
    """Of ``DistilBertModel``.

    Args:
        last_hidden_state: ``(B, S, H)``.
        hidden_states: See ``ModelOutput``.
        attentions: See ``ModelOutput``.
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class LogitsOutput(ModelOutput):
    """Of the heads with one set of logits.

    Args:
        loss: Scalar; None without labels.
        logits: ``(B, C)`` for sequences, ``(B, S, C)`` for tokens, ``(B, S, vocab_size)`` for masked LM,
            ``(B, choices)`` for multiple choice.
        hidden_states: See ``ModelOutput``.
        attentions: See ``ModelOutput``.
    """

    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SpanOutput(ModelOutput):
    """Of ``DistilBertForQuestionAnswering``.

    Args:
        loss: Mean of the losses of start and end; None unless both positions are given.
        start_logits: ``(B, S)``.
        end_logits: ``(B, S)``.
        hidden_states: See ``ModelOutput``.
        attentions: See ``ModelOutput``.
    """

    loss: Tensor | None
    start_logits: Tensor
    end_logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
