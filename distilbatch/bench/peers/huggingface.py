"""Hugging Face transformers: the pipeline as its documentation shows it, and the model over sorted batches.

A peer being measured, never a part of what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from distilbatch.bench.competitor import TEXT, Competitor, probe_documents
from distilbatch.bench.inputs import read_texts
from distilbatch.bench.machine import versions_of
from distilbatch.bench.peers.padded import PaddedPeer
from distilbatch.bench.peers.slots import TokenSlots
from distilbatch.bench.workload import FEATURE_EXTRACTION, Workload

_BATCH_ROWS = 32


class PeerModel(nn.Module):
    """A transformers model from ids and mask to what is compared; also what other peers export.

    Args:
        workload: Its checkpoint, task and pooling.
        dtype: Of weights and activations.
    """

    def __init__(self, workload: Workload, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.pooling = workload.pooling if workload.task == FEATURE_EXTRACTION else ""
        kind = transformers.AutoModel if self.pooling else transformers.AutoModelForSequenceClassification
        self.model = kind.from_pretrained(workload.model, dtype=dtype)
        self.eval()  # this module too: exporters look at the outermost one, and would keep dropout

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``(B, S)`` ids and 0/1 mask to ``(B, C)`` logits or ``(B, H)`` embeddings."""
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        if not self.pooling:
            logits: Tensor = output.logits
            return logits
        return pool(output.last_hidden_state, attention_mask, self.pooling)


def pool(states: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """``(B, S, H)`` states to ``(B, H)``: the first token's, or the mean over tokens."""
    if pooling == "cls":
        return states[:, 0]
    weights = attention_mask[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def sorted_model(workload: Workload, *, precision: str) -> PaddedPeer:
    """The model over padded batches."""
    torch.set_num_threads(workload.threads)
    model = PeerModel(workload, getattr(torch, precision)).to(workload.device)

    @torch.inference_mode()
    def forward(input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        ids, mask = (torch.from_numpy(array).to(workload.device) for array in (input_ids, attention_mask))
        values: NDArray[np.float32] = model(ids, mask).float().cpu().numpy()
        return values

    return PaddedPeer(workload, forward, versions_of("transformers", "torch"))


class HuggingFacePipeline(Competitor):
    """``pipeline(...)(texts, batch_size=32)`` in file order: what the documentation tells a user to do.

    Args:
        workload: Its model and texts.
    """

    def __init__(self, workload: Workload) -> None:
        torch.set_num_threads(workload.threads)
        self._pipeline = load_pipeline(workload)
        self._texts = read_texts(workload)
        self._few = sorted(self._texts, key=len)[: probe_documents(workload)]
        self._limits = {"truncation": True, "max_length": workload.max_length}
        self._slots = TokenSlots(self._pipeline.model.get_input_embeddings())

    @property
    @override
    def scopes(self) -> tuple[str, ...]:
        return (TEXT,)

    @override
    def describe(self) -> Mapping[str, Any]:
        return versions_of("transformers", "torch")

    @override
    def probe(self) -> None:
        self._pipeline(self._few, batch_size=_BATCH_ROWS, **self._limits)

    @override
    def outputs(self) -> NDArray[np.float32]:
        settings = {"top_k": None, "function_to_apply": "none", **self._limits}
        scored = self._pipeline(self._texts, batch_size=_BATCH_ROWS, **settings)
        places = self._pipeline.model.config.label2id
        values = np.empty((len(scored), len(places)), dtype=np.float32)
        for row, scores in enumerate(scored):
            for item in scores:
                values[row, places[item["label"]]] = item["score"]
        return values

    @override
    def run(self, scope: str) -> Mapping[str, Any]:
        self._slots.take()
        self._pipeline(self._texts, batch_size=_BATCH_ROWS, **self._limits)
        return {"tokens_computed": self._slots.take()}


def load_pipeline(workload: Workload) -> Any:  # noqa: ANN401 - a library without types here
    """The text-classification pipeline of a checkpoint folder."""
    return transformers.pipeline(
        "text-classification",
        model=str(workload.model),
        tokenizer=str(workload.model),
        device=workload.device,
        dtype=torch.float32,
    )
