"""sentence-transformers: ``encode``, which sorts by length itself; texts to embeddings.

A peer being measured, never a part of what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import sentence_transformers
import torch
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer import modules
from typing_extensions import override

from distilbatch.bench.competitor import TEXT, Competitor, probe_documents
from distilbatch.bench.inputs import read_texts
from distilbatch.bench.machine import versions_of
from distilbatch.bench.peers.slots import TokenSlots
from distilbatch.bench.workload import Workload

_BATCH_ROWS = 32


class SentenceTransformersPeer(Competitor):
    """The encoder with its pooling, not normalised.

    Args:
        workload: Its model and texts.
    """

    def __init__(self, workload: Workload) -> None:
        torch.set_num_threads(workload.threads)
        encoder = modules.Transformer(str(workload.model), max_seq_length=workload.max_length)
        self._slots = TokenSlots(encoder.model.get_input_embeddings())
        pooling = modules.Pooling(encoder.get_embedding_dimension(), workload.pooling)
        self._model = sentence_transformers.SentenceTransformer(modules=[encoder, pooling], device=workload.device)
        self._texts = read_texts(workload)
        self._few = sorted(self._texts, key=len)[: probe_documents(workload)]

    @property
    @override
    def scopes(self) -> tuple[str, ...]:
        return (TEXT,)

    @override
    def describe(self) -> Mapping[str, Any]:
        return versions_of("sentence-transformers", "transformers")

    @override
    def probe(self) -> None:
        self._encode(self._few)

    @override
    def outputs(self) -> NDArray[np.float32]:
        return self._encode(self._texts)

    @override
    def run(self, scope: str) -> Mapping[str, Any]:
        self._slots.take()
        self._encode(self._texts)
        return {"tokens_computed": self._slots.take()}

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._model.encode(texts, batch_size=_BATCH_ROWS, show_progress_bar=False)
        return values
