"""Token batches for tests that do not care about texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distilbatch.records import TokenBatch


def token_batch(documents: Sequence[Sequence[int]], *, step: int = 1) -> TokenBatch:
    """A batch of these documents' token ids, none of them cut.

    Args:
        documents: The ids of each.
        step: Between their sequences; more than 1 leaves out sequences, as those without tokens are.
    """
    count = len(documents)
    return TokenBatch(
        input_ids=np.array([i for ids in documents for i in ids], dtype=np.int32),
        cu_seqlens=np.cumsum([0, *map(len, documents)]).astype(np.int64),
        sequences=step * np.arange(count, dtype=np.int64),
        windows=np.zeros(count, dtype=np.int32),
        truncated=np.zeros(count, dtype=np.bool_),
    )


def random_token_batch(lengths: Sequence[int], *, vocab_size: int, seed: int = 0, step: int = 1) -> TokenBatch:
    """A batch of documents of these lengths, with ids below ``vocab_size``."""
    rng = np.random.default_rng(seed)
    return token_batch([rng.integers(0, vocab_size, size=length).tolist() for length in lengths], step=step)
