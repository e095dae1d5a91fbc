"""The documents of a workload as a contestant needs them: texts, token ids, padded batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distilbatch.bench.workload import Workload
from distilbatch.records import TokenBatch
from distilbatch.tokenization import DocumentTokenizer

_LEAST_SHARE = 8
_ALIKE = 0.8


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Some documents as rectangles.

    Args:
        documents: ``(B,)`` their indices.
        input_ids: ``(B, S)`` int64, padded with 0.
        attention_mask: ``(B, S)`` int64, 1 on tokens.
    """

    documents: NDArray[np.int64]
    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


def read_texts(workload: Workload) -> list[str]:
    """The texts, in document order."""
    texts: list[str] = pq.read_table(workload.documents, columns=[workload.text_column])[0].to_pylist()
    return texts


def tokenize(workload: Workload) -> TokenBatch:
    """The token ids of every document."""
    tokenizer = DocumentTokenizer.from_folder(workload.model, max_length=workload.max_length)
    return tokenizer.encode(read_texts(workload))


def pad_batches(tokens: TokenBatch, *, max_batch_tokens: int) -> list[PaddedBatch]:
    """Sort documents by length, longest first, and cut them so that rows x longest row stays within the budget.

    A batch of an eighth of the budget is also cut where documents get a fifth shorter: among thousands of documents
    that is where the budget ends anyway, and the few of a short benchmark would make peers compute twice their tokens.
    """
    lengths = tokens.lengths
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        longest = int(lengths[order[start]])
        most = max(1, max_batch_tokens // longest)
        least = max(1, -(-max_batch_tokens // (_LEAST_SHARE * longest)))
        alike = int((lengths[order[start : start + most]] >= _ALIKE * longest).sum())
        rows = min(most, max(least, alike))
        batches.append(pad(tokens, order[start : start + rows]))
        start += rows
    return batches


def pad(tokens: TokenBatch, documents: NDArray[np.int64]) -> PaddedBatch:
    """Lay some documents into a rectangle as wide as the longest of them."""
    lengths = tokens.lengths[documents]
    mask = (np.arange(int(lengths.max())) < lengths[:, None]).astype(np.int64)
    ids = np.zeros_like(mask)
    starts = tokens.cu_seqlens[:-1][documents]
    for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        ids[row, :length] = tokens.input_ids[start : start + length]
    return PaddedBatch(documents, ids, mask)
