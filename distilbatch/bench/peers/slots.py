"""How much a peer that makes its own batches computes: counted where ids enter the model, not worked out again."""

from __future__ import annotations

from torch import Tensor, nn


class TokenSlots:
    """Counts token slots, padding included, as the ids of a batch are looked up: rows times the longest row.

    Args:
        embedding: The model's table of tokens. The model itself would not do: sentence-transformers calls its
            ``forward`` past its hooks.
    """

    def __init__(self, embedding: nn.Module) -> None:
        self._slots = 0
        embedding.register_forward_pre_hook(self._count)

    def take(self) -> int:
        """The slots since this was last asked."""
        slots, self._slots = self._slots, 0
        return slots

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._slots += inputs[0].numel()  # the sizes alone: nothing waits for a GPU
