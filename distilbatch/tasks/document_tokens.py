"""From the tokens of text windows to the tokens of documents: each once, with the values of its best window.

A token that several windows hold takes its values from the one where it has the most context, so what comes out does
not depend on where windows happen to begin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilbatch.records import HeadOutput
from distilbatch.tasks.base import Asked


@dataclass(frozen=True, slots=True)
class DocumentTokens:
    """K tokens of whole sequences in reading order, special tokens around them left out.

    Args:
        sequences: ``(K,)`` int64, the sequence of each, rising.
        index: ``(K,)`` int64, its place in the sequence as if there were no windows, special tokens counted.
        ids: ``(K,)`` int32, token ids.
        offsets: ``(K, 2)`` int32, half-open ranges of characters.
        values: ``(K, ...)`` float32, what the head said.
    """

    sequences: NDArray[np.int64]
    index: NDArray[np.int64]
    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        """K."""
        return len(self.sequences)

    def choose(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> DocumentTokens:
        """Some of the tokens, by a mask or by place."""
        return DocumentTokens(
            self.sequences[keep], self.index[keep], self.ids[keep], self.offsets[keep], self.values[keep]
        )


def answered_documents(output: HeadOutput, asked: Asked) -> NDArray[np.int64]:
    """The documents that a head gave token values for; it does so for all tokens of a document or for none."""
    return np.flatnonzero(np.isin(asked.tokens.cu_seqlens[:-1], output.positions))


def merge_windows(output: HeadOutput, asked: Asked, *, stride: int | None) -> DocumentTokens:
    """Put windows together again.

    The context of a token in a window is its distance to the nearer edge; of windows that give it as much, the
    earlier one is taken.

    Args:
        output: Values of single texts' tokens.
        asked: The texts, with token details.
        stride: Tokens that neighbouring windows share; None where there are none.
    """
    tokens, details = asked.tokens, asked.tokens.details
    if details is None:
        raise ValueError("merging windows: expected token details, found none")
    is_text = details.parts > 0
    seen = np.concatenate([[0], np.cumsum(is_text)])  # text tokens before each token of the batch
    before, after = seen[tokens.cu_seqlens[:-1]], seen[tokens.cu_seqlens[1:]]
    sizes = after - before  # (N,) text tokens of each window
    first_window = np.arange(len(tokens)) - tokens.windows
    ends = np.cumsum(sizes - (stride or 0))
    starts = np.append(0, ends[:-1]) if len(ends) else ends
    shift = starts - starts[first_window]  # windows are in reading order, and only those at an end may be short

    kept = is_text[output.positions]
    positions = output.positions[kept]
    documents = np.searchsorted(tokens.cu_seqlens, positions, side="right") - 1
    index = positions - tokens.cu_seqlens[documents] + shift[documents]
    merged = DocumentTokens(
        sequences=tokens.sequences[documents],
        index=index,
        ids=tokens.input_ids[positions],
        offsets=details.offsets[positions],
        values=output.values[kept],
    )
    if not tokens.windows.any():
        return merged
    rank = seen[positions] - before[documents]
    context = np.minimum(rank, sizes[documents] - 1 - rank)
    order = np.lexsort((tokens.windows[documents], -context, index, merged.sequences))
    sequences, index = merged.sequences[order], index[order]
    best = np.ones(len(order), dtype=np.bool_)
    best[1:] = (sequences[1:] != sequences[:-1]) | (index[1:] != index[:-1])
    return merged.choose(order[best])
