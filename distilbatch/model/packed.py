"""Packed tokens and the layout of their documents: plain integers on the host beside tensors on the device.

Letters as in ``records.py``: N documents, T tokens laid end to end, H hidden size. Q counts the tokens that ask
(queries): all T of them, or the few whose last-layer output is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Rows = Tensor | Literal["first"] | None
"""Which tokens' last-layer output is needed: None all, ``"first"`` the first of each document, or a sorted ``(Q,)``
int64 tensor of token rows, any number a document."""


class Run(NamedTuple):
    """Consecutive documents of one shape: each has ``q_len`` queries over its own ``k_len`` keys."""

    num_docs: int
    q_len: int
    k_len: int


@dataclass(frozen=True)
class Layout:
    """Where the documents of a packed tensor begin and end, which is all that attention has to know.

    Args:
        runs: Runs in order; their queries add up to Q and their keys to T.
        key_mask: ``(T,)`` bool, False for tokens that nobody may attend to; None where there are none.
    """

    runs: tuple[Run, ...]
    key_mask: Tensor | None = None

    @classmethod
    def of_lengths(cls, lengths: Iterable[int], *, key_mask: Tensor | None = None) -> Layout:
        """Lay out documents of ``lengths`` tokens in which every token asks."""
        return cls(_merge((length, length) for length in lengths), key_mask)

    @property
    def lengths(self) -> list[int]:
        """Tokens (keys) of each of the N documents."""
        return [run.k_len for run in self.runs for _ in range(run.num_docs)]

    def select(self, rows: Tensor | Literal["first"], *, device: torch.device) -> tuple[Tensor, Layout]:
        """Return the ``(Q,)`` token rows on ``device`` and the layout in which only these ask.

        Raises:
            ValueError: ``rows`` is not sorted or leaves ``[0, T)``, or a document is empty and has no first token.
        """
        lengths = torch.tensor(self.lengths, dtype=torch.int64)
        ends = lengths.cumsum(0)
        if isinstance(rows, str):
            if bool((lengths == 0).any()):
                raise ValueError("first rows: expected a token in every document, found an empty document")
            runs = tuple(Run(run.num_docs, 1, run.k_len) for run in self.runs)
            return (ends - lengths).to(device), Layout(runs, self.key_mask)
        on_host = rows.cpu()
        if len(rows) and (on_host[0] < 0 or on_host[-1] >= ends[-1] or bool((on_host.diff() <= 0).any())):
            raise ValueError(
                f"rows: expected increasing token rows in [0, {int(ends[-1])}), found {on_host.tolist()[:10]}"
            )
        documents = torch.searchsorted(ends, on_host, right=True)
        asked = torch.bincount(documents, minlength=len(lengths)).tolist()
        return rows.to(device), Layout(_merge(zip(asked, self.lengths, strict=True)), self.key_mask)


@dataclass(frozen=True)
class PackedTokens:
    """N documents laid end to end, without padding.

    Args:
        input_ids: ``(T,)`` int32 or int64.
        position_ids: ``(T,)`` int32 or int64, restarting at 0 in each document.
        runs: ``(num_docs, length)`` of consecutive documents of equal length.
    """

    input_ids: Tensor
    position_ids: Tensor
    runs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        tokens = sum(num_docs * length for num_docs, length in self.runs)
        if self.input_ids.shape != (tokens,) or self.position_ids.shape != (tokens,):
            raise ValueError(
                f"packed tokens: expected input_ids and position_ids of {tokens} tokens, found shapes "
                f"{tuple(self.input_ids.shape)} and {tuple(self.position_ids.shape)}"
            )

    @classmethod
    def from_lengths(cls, input_ids: Tensor, lengths: Sequence[int]) -> PackedTokens:
        """Cut ``(T,)`` ids into documents of ``lengths`` tokens each, all at least 1.

        Raises:
            ValueError: A length is below 1, or they do not add up to T.
        """
        if len(lengths) and min(lengths) < 1:
            raise ValueError(f"lengths: expected at least 1 token a document, found {min(lengths)}")
        runs = tuple((len(list(group)), int(length)) for length, group in groupby(lengths))
        parts = [torch.arange(length).repeat(num_docs) for num_docs, length in runs]
        positions = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
        return cls(input_ids, positions.to(input_ids.device), runs)

    @property
    def layout(self) -> Layout:
        """The layout in which every token asks."""
        return Layout(tuple(Run(num_docs, length, length) for num_docs, length in self.runs))

    @property
    def num_docs(self) -> int:
        """N."""
        return sum(num_docs for num_docs, _ in self.runs)

    @property
    def max_length(self) -> int:
        """Tokens of the longest document; 0 without documents."""
        return max((length for _, length in self.runs), default=0)

    def to(self, device: torch.device | str) -> PackedTokens:
        """Return the same tokens on ``device``."""
        return PackedTokens(self.input_ids.to(device), self.position_ids.to(device), self.runs)


def _merge(shapes: Iterable[tuple[int, int]]) -> tuple[Run, ...]:
    return tuple(Run(len(list(group)), *shape) for shape, group in groupby(shapes))
