"""What every contestant's outputs are compared with: the plain float32 model over one document at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from distilbatch.bench.competitor import MODEL, Competitor, probe_documents
from distilbatch.bench.inputs import tokenize
from distilbatch.bench.workload import FEATURE_EXTRACTION, Workload
from distilbatch.inference.precision import resolve_device
from distilbatch.model.auto import ARCHITECTURES
from distilbatch.tasks.catalog import TASK_HEADS


class Reference(Competitor):
    """No packing, no padding, no batching, no kernels of our own.

    Args:
        workload: Its first annotation's model and the documents.
    """

    def __init__(self, workload: Workload) -> None:
        torch.set_num_threads(workload.threads)
        self._workload = workload
        self._device = resolve_device(workload.device)
        kind = ARCHITECTURES[TASK_HEADS[workload.task]]
        self._model = kind.from_pretrained(workload.model).to(self._device).eval()
        self._tokens = tokenize(workload)

    @property
    @override
    def scopes(self) -> tuple[str, ...]:
        return (MODEL,)

    @override
    def describe(self) -> Mapping[str, Any]:
        return {}

    @override
    def probe(self) -> None:
        self._compute(np.argsort(self._tokens.lengths)[: probe_documents(self._workload)])

    @override
    def outputs(self) -> NDArray[np.float32]:
        return self._compute(np.arange(len(self._tokens)))

    @override
    def run(self, scope: str) -> Mapping[str, Any]:
        self.outputs()
        return {"tokens_computed": len(self._tokens.input_ids)}

    @torch.inference_mode()
    def _compute(self, documents: NDArray[np.int64]) -> NDArray[np.float32]:
        bounds = self._tokens.cu_seqlens
        rows = []
        for document in documents.tolist():
            ids = torch.from_numpy(self._tokens.input_ids[bounds[document] : bounds[document + 1]]).long()
            output = self._model(ids[None].to(self._device), torch.ones_like(ids)[None].to(self._device))
            rows.append(self._read(output).float().cpu().numpy())
        return np.stack(rows)

    def _read(self, output: Any) -> torch.Tensor:  # noqa: ANN401 - the outputs of several heads
        if self._workload.task != FEATURE_EXTRACTION:
            logits: torch.Tensor = output.logits[0]
            return logits
        states: torch.Tensor = output.last_hidden_state[0]
        return states[0] if self._workload.pooling == "cls" else states.mean(0)
