"""A peer that computes padded batches of token ids: sorted by length within a token budget, all cores, warm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from distilbatch.bench.competitor import MODEL, Competitor, probe_documents
from distilbatch.bench.inputs import pad, pad_batches, tokenize
from distilbatch.bench.workload import Workload

Forward = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""From ``(B, S)`` ids and mask to ``(B, C)`` logits, or ``(B, H)`` embeddings."""


class PaddedPeer(Competitor):
    """Runs a forward over the padded batches, which are made beforehand.

    Args:
        workload: The documents.
        forward: The peer's model.
        about: What it is.
    """

    def __init__(self, workload: Workload, forward: Forward, about: Mapping[str, Any]) -> None:
        tokens = tokenize(workload)
        self._num_documents = len(tokens)
        self._forward = forward
        self._about = about
        self._batches = pad_batches(tokens, max_batch_tokens=workload.max_batch_tokens)
        self._shortest = pad(tokens, np.argsort(tokens.lengths)[: probe_documents(workload)])

    @property
    @override
    def scopes(self) -> tuple[str, ...]:
        return (MODEL,)

    @override
    def describe(self) -> Mapping[str, Any]:
        return self._about

    @override
    def probe(self) -> None:
        self._forward(self._shortest.input_ids, self._shortest.attention_mask)

    @override
    def outputs(self) -> NDArray[np.float32]:
        parts = [self._forward(batch.input_ids, batch.attention_mask) for batch in self._batches]
        order = np.argsort(np.concatenate([batch.documents for batch in self._batches]))
        return np.concatenate(parts)[order].astype(np.float32, copy=False)

    @override
    def run(self, scope: str) -> Mapping[str, Any]:
        self.outputs()
        return {"tokens_computed": sum(batch.input_ids.size for batch in self._batches)}
