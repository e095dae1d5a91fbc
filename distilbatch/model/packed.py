"""Packed tokens and the layout of their documents: plain integers on the host beside tensors on the device.

Letters as in ``records.py``: N documents, T tokens laid end to end, H hidden size. Q counts the tokens that ask
(queries): all T of them, or the few whose last-layer output is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, groupby
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Run(NamedTuple):
    """Consecutive documents of one shape: each has ``q_len`` queries over its own ``k_len`` keys."""

    num_docs: int
    q_len: int
    k_len: int


class Bounds(NamedTuple):
    """The layout in the form that kernels for documents of any lengths take it, on one device.

    Args:
        queries: ``(N + 1,)`` int32, rising from 0 to Q; document i asks with the rows ``[queries[i], queries[i+1])``.
        keys: ``(N + 1,)`` int32, rising from 0 to T.
        max_queries: Most queries of a document.
        max_keys: Most keys of a document.
    """

    queries: Tensor
    keys: Tensor
    max_queries: int
    max_keys: int


@dataclass(frozen=True)
class Layout:
    """Where the documents of a packed tensor begin and end, which is all that attention has to know.

    Args:
        runs: Runs in order; their queries add up to Q and their keys to T.
        key_mask: ``(T,)`` bool, False for tokens that nobody may attend to; None where there are none.
    """

    runs: tuple[Run, ...]
    key_mask: Tensor | None = None
    _bounds: dict[torch.device, Bounds] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of_lengths(cls, lengths: Iterable[int], *, key_mask: Tensor | None = None) -> Layout:
        """Lay out documents of ``lengths`` tokens in which every token asks."""
        return cls(_merge((length, length) for length in lengths), key_mask)

    @property
    def lengths(self) -> list[int]:
        """Tokens (keys) of each of the N documents."""
        return [run.k_len for run in self.runs for _ in range(run.num_docs)]

    def bounds(self, device: torch.device) -> Bounds:
        """Return the bounds of every document on ``device``; made once, and copied there unless they were given."""
        known = self._bounds.get(device)
        if known is not None:
            return known
        shapes = [run for run in self.runs for _ in range(run.num_docs)]
        queries, keys = (
            torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device)
            for lengths in ((run.q_len for run in shapes), (run.k_len for run in shapes))
        )
        return self.give_bounds(queries, keys)

    def give_bounds(self, queries: Tensor, keys: Tensor) -> Bounds:
        """Take the bounds from who has them on a device already, which saves a copy that waits for the device.

        Args:
            queries: ``(N + 1,)`` int32, see :class:`Bounds`.
            keys: The same of keys; on the same device.
        """
        bounds = self._bounds[keys.device] = Bounds(
            queries,
            keys,
            max((run.q_len for run in self.runs), default=0),
            max((run.k_len for run in self.runs), default=0),
        )
        return bounds

    def select(
        self, rows: Tensor | Literal["first"], *, device: torch.device, on_device: Tensor | None = None
    ) -> Selection:
        """Choose the token rows that ask. Does not wait for a device that has the bounds, and the rows, already.

        Args:
            rows: As in ``Rows``.
            device: Where the rows are needed.
            on_device: ``rows`` on that device, where they are already.

        Raises:
            ValueError: ``rows`` is not sorted or leaves ``[0, T)``, or a document is empty and has no first token.
        """
        bounds = self._bounds.get(device)
        if isinstance(rows, str):
            return self._select_first(device, bounds)
        ends = torch.tensor(self.lengths, dtype=torch.int64).cumsum(0)
        on_host = rows.cpu()
        if len(rows) and (on_host[0] < 0 or on_host[-1] >= ends[-1] or bool((on_host.diff() <= 0).any())):
            raise ValueError(
                f"rows: expected increasing token rows in [0, {int(ends[-1])}), found {on_host.tolist()[:10]}"
            )
        documents = torch.searchsorted(ends, on_host, right=True)
        asked = torch.bincount(documents, minlength=len(ends)).tolist()
        selection = Selection(
            rows.to(device) if on_device is None else on_device,
            Layout(_merge(zip(asked, self.lengths, strict=True)), self.key_mask),
        )
        if bounds is not None:  # a document's queries begin behind all chosen rows before its first token
            queries = torch.searchsorted(selection.rows.int(), bounds.keys, out_int32=True)
            selection.layout.give_bounds(queries, bounds.keys)
        return selection

    def _select_first(self, device: torch.device, bounds: Bounds | None) -> Selection:
        if any(run.k_len == 0 for run in self.runs):
            raise ValueError("first rows: expected a token in every document, found an empty document")
        layout = Layout(tuple(Run(run.num_docs, 1, run.k_len) for run in self.runs), self.key_mask)
        if bounds is None:
            starts = list(accumulate(self.lengths, initial=0))[:-1]
            return Selection(torch.tensor(starts, dtype=torch.int64).to(device), layout)
        layout.give_bounds(torch.arange(len(bounds.keys), dtype=torch.int32, device=device), bounds.keys)
        return Selection(bounds.keys[:-1].long(), layout)


class Selection(NamedTuple):
    """Chosen token rows.

    Args:
        rows: ``(Q,)`` int64, on the device of the tokens.
        layout: The layout in which only these ask.
    """

    rows: Tensor
    layout: Layout


Rows = Tensor | Selection | Literal["first"] | None
"""Which tokens' last-layer output is needed: None all, ``"first"`` the first of each document, or a sorted ``(Q,)``
int64 tensor of token rows, any number a document, which waits for the device unless they were selected before."""


@dataclass(frozen=True)
class PackedTokens:
    """N documents laid end to end, without padding.

    Args:
        input_ids: ``(T,)`` int32 or int64.
        position_ids: ``(T,)`` int32 or int64, restarting at 0 in each document.
        runs: ``(num_docs, length)`` of consecutive documents of equal length.
        cu_seqlens: ``(N + 1,)`` int32 on the same device, where each document begins; None if it is not known there.
    """

    input_ids: Tensor
    position_ids: Tensor
    runs: tuple[tuple[int, int], ...]
    cu_seqlens: Tensor | None = None

    def __post_init__(self) -> None:
        tokens = sum(num_docs * length for num_docs, length in self.runs)
        if self.input_ids.shape != (tokens,) or self.position_ids.shape != (tokens,):
            raise ValueError(
                f"packed tokens: expected input_ids and position_ids of {tokens} tokens, found shapes "
                f"{tuple(self.input_ids.shape)} and {tuple(self.position_ids.shape)}"
            )

    @classmethod
    def from_lengths(
        cls, input_ids: Tensor, lengths: Sequence[int], *, cu_seqlens: Tensor | None = None
    ) -> PackedTokens:
        """Cut ``(T,)`` ids into documents of ``lengths`` tokens each, all at least 1.

        Args:
            input_ids: ``(T,)``.
            lengths: N lengths.
            cu_seqlens: ``(N + 1,)`` int32, their sums from 0 to T on the device of the ids; copied there without it.

        Raises:
            ValueError: A length is below 1, or they do not add up to T.
        """
        if len(lengths) and min(lengths) < 1:
            raise ValueError(f"lengths: expected at least 1 token a document, found {min(lengths)}")
        if sum(lengths) != len(input_ids):
            raise ValueError(f"lengths: expected to add up to {len(input_ids)} tokens, found {sum(lengths)}")
        if cu_seqlens is None:
            cu_seqlens = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(input_ids.device)
        # Without its size, the device would have to be asked for it.
        starts = torch.repeat_interleave(cu_seqlens[:-1], cu_seqlens.diff(), output_size=len(input_ids))
        positions = torch.arange(len(input_ids), dtype=torch.int32, device=input_ids.device) - starts
        runs = tuple((len(list(group)), int(length)) for length, group in groupby(lengths))
        return cls(input_ids, positions, runs, cu_seqlens)

    @cached_property
    def layout(self) -> Layout:
        """The layout in which every token asks."""
        layout = Layout(tuple(Run(num_docs, length, length) for num_docs, length in self.runs))
        if self.cu_seqlens is not None:
            layout.give_bounds(self.cu_seqlens, self.cu_seqlens)
        return layout

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
        cu_seqlens = None if self.cu_seqlens is None else self.cu_seqlens.to(device)
        return PackedTokens(self.input_ids.to(device), self.position_ids.to(device), self.runs, cu_seqlens)


def _merge(shapes: Iterable[tuple[int, int]]) -> tuple[Run, ...]:
    return tuple(Run(len(list(group)), *shape) for shape, group in groupby(shapes))
