"""One model pinned to one device: token batches in, head outputs on the host out."""

from __future__ import annotations

import threading
import time
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from distilbatch.inference.backends import Backend, ReferenceBackend
from distilbatch.inference.packing import gather, pack
from distilbatch.model.modeling import DistilBertForSequenceClassification
from distilbatch.model.packed import PackedTokens
from distilbatch.records import HeadOutput, TokenBatch


class Predictor:
    """Runs a sequence head over documents of any lengths, within a token budget. Threads may share it.

    Args:
        model: The model; moved to the device and pinned there.
        device: Where it runs.
        dtype: What its weights and activations are.
        num_classes: C.
        max_batch_tokens: Most tokens of one forward call; halved for good when memory runs out.
        backend: The kernels.
    """

    def __init__(
        self,
        model: DistilBertForSequenceClassification,
        *,
        device: torch.device,
        dtype: torch.dtype,
        num_classes: int,
        max_batch_tokens: int,
        backend: Backend | None = None,
    ) -> None:
        (backend or ReferenceBackend()).prepare(model, device=device, dtype=dtype)
        self._model = model
        self._device = device
        self._num_classes = num_classes
        self.max_batch_tokens = max_batch_tokens
        self._lock = threading.Lock()

    def predict(self, tokens: TokenBatch, *, on_batch: BatchObserver | None = None) -> HeadOutput:
        """Compute the head's logits for every document of a buffer.

        Args:
            tokens: N documents in any order.
            on_batch: Called with the buffer rows of each token batch before it runs: what a crash would name.

        Returns:
            HeadOutput: In the order of ``tokens``. A document that does not fit into memory even alone has
            NaN logits.
        """
        logits = np.empty((len(tokens), self._num_classes), dtype=np.float32)
        computed = 0
        # One buffer at a time: two would only fight over the same cores or the same device memory.
        with self._lock:
            start = time.perf_counter()
            for documents in pack(tokens.lengths, max_batch_tokens=self.max_batch_tokens):
                if on_batch is not None:
                    on_batch(tokens.rows[documents])
                logits[documents] = self._forward_or_split(tokens, documents)
                computed += int(tokens.lengths[documents].sum())
            seconds = time.perf_counter() - start
        return HeadOutput(rows=tokens.rows, logits=logits, tokens_computed=computed, seconds=seconds)

    def _forward_or_split(self, tokens: TokenBatch, documents: NDArray[np.int64]) -> NDArray[np.float32]:
        try:
            return self._forward(tokens, documents)
        except (torch.OutOfMemoryError, MemoryError):
            pass
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        # Outside the except block: the traceback's frames would keep the tensors of the failed call alive.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if len(documents) == 1:
            return np.full((1, self._num_classes), np.nan, dtype=np.float32)
        used = int(tokens.lengths[documents].sum())
        self.max_batch_tokens = min(self.max_batch_tokens, max(1, used // 2))
        middle = len(documents) // 2
        halves = [self._forward_or_split(tokens, half) for half in (documents[:middle], documents[middle:])]
        return np.concatenate(halves)

    def _forward(self, tokens: TokenBatch, documents: NDArray[np.int64]) -> NDArray[np.float32]:
        input_ids = torch.from_numpy(gather(tokens, documents))
        if self._device.type == "cuda":
            input_ids = input_ids.pin_memory().to(self._device, non_blocking=True)
        lengths = tokens.lengths[documents].tolist()
        with torch.inference_mode():
            packed = PackedTokens.from_lengths(input_ids, lengths)
            logits = self._model.forward_packed(packed)
        host: NDArray[np.float32] = logits.float().cpu().numpy()
        return host


class BatchObserver(Protocol):
    """Told which rows run next."""

    def __call__(self, rows: NDArray[np.int64], /) -> None:
        """Take note of ``rows``, the buffer rows of the token batch about to run."""


# Failed allocations for which torch raises a plain RuntimeError: on the host, of pinned memory, inside cuBLAS.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


def _is_out_of_memory(error: RuntimeError) -> bool:
    return any(text in str(error) for text in _OUT_OF_MEMORY)
