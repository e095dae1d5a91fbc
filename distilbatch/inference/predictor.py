"""One trunk pinned to one device, with the heads that share it: token batches in, head outputs on the host out."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilbatch.inference.backends import Backend, choose_backend
from distilbatch.inference.packing import gather, pack, token_index
from distilbatch.inference.precision import storage_dtype
from distilbatch.inference.readouts import Needs, Reading, Readout
from distilbatch.model.modeling import DistilBertModel, PreTrainedModel
from distilbatch.model.packed import PackedTokens, Rows
from distilbatch.records import HeadOutput, TokenBatch


class BatchObserver(Protocol):
    """Told which documents run next."""

    def __call__(self, documents: NDArray[np.int64], /) -> None:
        """Take note of ``documents``, the indices of the token batch about to run."""


class Predictor:
    """Runs heads over documents of any lengths, within a token budget. Threads may share it.

    Args:
        models: Models with equal encoders; the first one's encoder is pinned and used for all.
        readouts: What to read off each model.
        device: Where they run.
        precision: What they compute in, one of ``precision.PRECISIONS``.
        max_batch_tokens: Most tokens of one forward call; halved for good when memory runs out.
        backend: The kernels; None chooses the fastest that this machine has.
    """

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        readouts: Sequence[Readout],
        *,
        device: torch.device,
        precision: str,
        max_batch_tokens: int,
        backend: Backend | None = None,
    ) -> None:
        dtype = storage_dtype(precision)
        backend = backend or choose_backend(precision, device, dtype)
        self._encoder = models[0].encoder
        for place, model in enumerate(models):
            if isinstance(model, DistilBertModel) and place:
                continue  # an encoder alone, and the first one's is used
            if not isinstance(model, DistilBertModel):
                model.set_submodule("distilbert", self._encoder)  # one copy in memory
            backend.prepare(model, device=device, dtype=dtype)
        self._models = tuple(models)
        self._readouts = tuple(readouts)
        self._needs = _joint_needs(self._readouts)
        self._device = device
        self._lock = threading.Lock()
        self.max_batch_tokens = max_batch_tokens

    def predict(self, tokens: TokenBatch, *, on_batch: BatchObserver | None = None) -> list[HeadOutput]:
        """Compute what every head says of the documents.

        Args:
            tokens: N documents in any order.
            on_batch: Called with the documents of each token batch before it runs: what a crash would name.

        Returns:
            One output for each model; tokens and seconds of the shared forward are in the first. A document that
            does not fit into memory even alone is in none of them.
        """
        parts: list[list[_Part]] = [[] for _ in self._models]
        computed = 0
        # One buffer at a time: two would only fight over the same cores or the same device memory.
        with self._lock:
            start = time.perf_counter()
            for documents in pack(tokens.lengths, max_batch_tokens=self.max_batch_tokens):
                if on_batch is not None:
                    on_batch(documents)
                for done, readings in self._forward_or_split(tokens, documents):
                    computed += int(tokens.lengths[done].sum())
                    for collected, reading in zip(parts, readings, strict=True):
                        collected.append(reading)
            seconds = time.perf_counter() - start
        first, *others = parts
        return [
            _assemble(first, tokens_computed=computed, seconds=seconds),
            *(_assemble(collected, tokens_computed=0, seconds=0.0) for collected in others),
        ]

    def _forward_or_split(
        self, tokens: TokenBatch, documents: NDArray[np.int64]
    ) -> list[tuple[NDArray[np.int64], list[_Part]]]:
        try:
            return [(documents, self._forward(tokens, documents))]
        except (torch.OutOfMemoryError, MemoryError):
            pass
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        # Outside the except block: the traceback's frames would keep the tensors of the failed call alive.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if len(documents) == 1:
            return []
        used = int(tokens.lengths[documents].sum())
        self.max_batch_tokens = min(self.max_batch_tokens, max(1, used // 2))
        middle = len(documents) // 2
        return [
            part for half in (documents[:middle], documents[middle:]) for part in self._forward_or_split(tokens, half)
        ]

    def _forward(self, tokens: TokenBatch, documents: NDArray[np.int64]) -> list[_Part]:
        host_ids = torch.from_numpy(gather(tokens, documents))
        input_ids = host_ids
        if self._device.type == "cuda":
            input_ids = host_ids.pin_memory().to(self._device, non_blocking=True)
        with torch.inference_mode():
            packed = PackedTokens.from_lengths(input_ids, tokens.lengths[documents].tolist())
            rows = _rows(self._needs, host_ids)
            states = self._encoder.forward_packed(packed, rows)
            read = []
            for model, readout in zip(self._models, self._readouts, strict=True):
                chosen = _choose(readout.needs, self._needs, host_ids, packed)
                own = states if chosen is None else states[chosen.to(states.device)]
                reading = readout.read(model, own, packed)
                read.append(_Part(_positions(readout, tokens, documents, host_ids), reading))
        return read


class _Part:
    """A reading of one token batch, copied to the host."""

    def __init__(self, positions: NDArray[np.int64], reading: Reading) -> None:
        self.positions = positions
        self.values: NDArray[np.float32] = reading.values.float().cpu().numpy()
        self.ids: NDArray[np.int64] | None = None if reading.ids is None else reading.ids.cpu().numpy()


def _joint_needs(readouts: Sequence[Readout]) -> Needs:
    needs = {readout.needs for readout in readouts}
    return needs.pop() if len(needs) == 1 else "all"


def _rows(needs: Needs, input_ids: Tensor) -> Rows:
    if needs == "all":
        return None
    if needs == "first":
        return "first"
    return _rows_of(input_ids, int(needs))


def _choose(needs: Needs, computed: Needs, input_ids: Tensor, packed: PackedTokens) -> Tensor | None:
    """Rows of the computed states that a readout needs; None for all of them."""
    if needs == computed:
        return None
    if needs == "first":
        lengths = torch.tensor(packed.layout.lengths)
        return lengths.cumsum(0) - lengths
    return _rows_of(input_ids, int(needs))


def _rows_of(input_ids: Tensor, token_id: int) -> Tensor:
    return (input_ids == token_id).nonzero().flatten()


def _positions(
    readout: Readout, tokens: TokenBatch, documents: NDArray[np.int64], input_ids: Tensor
) -> NDArray[np.int64]:
    if readout.axis == "documents":
        return documents
    index = token_index(tokens, documents)
    return index if readout.needs == "all" else index[input_ids.numpy() == readout.needs]


def _assemble(parts: Sequence[_Part], *, tokens_computed: int, seconds: float) -> HeadOutput:
    if not parts:
        nothing = np.empty((0, 0), dtype=np.float32)
        return HeadOutput(np.empty(0, dtype=np.int64), nothing, None, tokens_computed, seconds)
    positions = np.concatenate([part.positions for part in parts])
    order = np.argsort(positions, kind="stable")
    ids = [part.ids for part in parts if part.ids is not None]
    return HeadOutput(
        positions=positions[order],
        values=np.concatenate([part.values for part in parts])[order],
        ids=np.concatenate(ids)[order] if ids else None,
        tokens_computed=tokens_computed,
        seconds=seconds,
    )


# Failed allocations for which torch raises a plain RuntimeError: on the host, of pinned memory, inside cuBLAS.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


def _is_out_of_memory(error: RuntimeError) -> bool:
    return any(text in str(error) for text in _OUT_OF_MEMORY)
