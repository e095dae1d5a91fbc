"""Lengths to token batches: pure integers, no tensors.

Documents are sorted by length, so a token batch is a few runs of equal length and attention needs no mask;
longest first, so memory peaks at once. Nothing is padded: tokens computed = tokens in the documents.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distilbatch.records import TokenBatch


def pack(lengths: NDArray[np.int64], *, max_batch_tokens: int) -> list[NDArray[np.int64]]:
    """Cut documents into token batches of at most ``max_batch_tokens`` tokens.

    Args:
        lengths: ``(N,)`` tokens of each document.
        max_batch_tokens: The budget. A document longer than it gets a batch of its own.

    Returns:
        Index arrays into ``lengths``; together a permutation of ``range(N)``, longest first.
    """
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + max_batch_tokens, side="right"))
        stop = max(stop, start + 1)
        batches.append(order[start:stop])
        start = stop
    return batches


def token_index(tokens: TokenBatch, documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices into ``tokens.input_ids`` of the chosen documents' tokens, laid end to end in the given order.

    Args:
        tokens: The documents of a sort buffer.
        documents: Indices of documents.

    Returns:
        ``(T,)`` int64.
    """
    lengths = tokens.lengths[documents]
    ends = np.cumsum(lengths)
    # The place of token t of the result is the start of its document + its offset inside the document.
    starts = np.repeat(tokens.cu_seqlens[:-1][documents] - (ends - lengths), lengths)
    return starts + np.arange(int(ends[-1]) if len(ends) else 0)


def gather(tokens: TokenBatch, documents: NDArray[np.int64]) -> NDArray[np.int32]:
    """Lay the token ids of the chosen documents end to end, in the given order: ``(T,)`` int32."""
    ids: NDArray[np.int32] = tokens.input_ids[token_index(tokens, documents)]
    return ids
