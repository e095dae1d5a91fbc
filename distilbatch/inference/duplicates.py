"""Documents with the same tokens are computed once: the exact repeats of real tables, found after tokenization.

Texts that differ in case, blanks or beyond ``max_length`` may be equal by then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from distilbatch.inference.readouts import Axis
from distilbatch.records import HeadOutput, TokenBatch


@dataclass(frozen=True, slots=True)
class Distinct:
    """The different documents among N.

    Args:
        tokens: The first of each kind, in order, without details.
        kinds: ``(N,)`` int64, which of them each document equals.
        cu_seqlens: ``(N + 1,)`` int64 of the documents themselves.
    """

    tokens: TokenBatch
    kinds: NDArray[np.int64]
    cu_seqlens: NDArray[np.int64]

    @property
    def repeated(self) -> int:
        """Documents that need not be computed."""
        return len(self.kinds) - len(self.tokens)

    def members(self, kinds: NDArray[np.int64]) -> NDArray[np.int64]:
        """All documents of some kinds, rising."""
        return np.flatnonzero(np.isin(self.kinds, kinds))

    def spread(self, output: HeadOutput, axis: Axis) -> HeadOutput:
        """Give every document the output of its kind.

        Args:
            output: Of the distinct documents.
            axis: What its positions are: documents or tokens.
        """
        if not self.repeated:
            return output
        bounds = np.arange(len(self.tokens) + 1) if axis == "documents" else self.tokens.cu_seqlens
        starts = np.arange(len(self.kinds)) if axis == "documents" else self.cu_seqlens[:-1]
        # Rows [first, last) of the output belong to a kind; a document left out for want of memory has none.
        first, last = np.searchsorted(output.positions, bounds[:-1]), np.searchsorted(output.positions, bounds[1:])
        counts = (last - first)[self.kinds]
        ends = np.cumsum(counts)
        rows = np.repeat(first[self.kinds] - (ends - counts), counts) + np.arange(int(ends[-1]) if len(ends) else 0)
        moved = np.repeat(starts - bounds[self.kinds], counts)
        return replace(
            output,
            positions=output.positions[rows] + moved,
            values=output.values[rows],
            ids=None if output.ids is None else output.ids[rows],
        )


def find_distinct(tokens: TokenBatch) -> Distinct:
    """Sort documents into kinds by their token ids."""
    cu_seqlens = tokens.cu_seqlens
    numbers: dict[bytes, int] = {}
    kinds = np.empty(len(tokens), dtype=np.int64)
    chosen: list[int] = []
    for index, (start, stop) in enumerate(zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True)):
        kind = numbers.setdefault(tokens.input_ids[start:stop].tobytes(), len(chosen))
        if kind == len(chosen):
            chosen.append(index)
        kinds[index] = kind
    if len(chosen) == len(tokens):
        return Distinct(tokens, kinds, cu_seqlens)
    return Distinct(_take(tokens, np.array(chosen, dtype=np.int64)), kinds, cu_seqlens)


def _take(tokens: TokenBatch, documents: NDArray[np.int64]) -> TokenBatch:
    keep = np.zeros(len(tokens), dtype=np.bool_)
    keep[documents] = True
    lengths = tokens.lengths[documents]
    return TokenBatch(
        input_ids=tokens.input_ids[np.repeat(keep, tokens.lengths)],
        cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        sequences=tokens.sequences[documents],
        windows=tokens.windows[documents],
        truncated=tokens.truncated[documents],
    )
