"""How many tokens one forward takes: constants for CPUs, measured against the free memory on CUDA devices.

Less once memory ran out, and more again when it holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import torch

from distilbatch.records import TokenBatch

CPU_BATCH_TOKENS = 2048  # a few MB of activations stay in the caches
STREAM_BATCH_TOKENS = 1024  # two streams share those caches; and more batches keep streams busy to the end of a buffer
MIN_CUDA_BATCH_TOKENS = 16_384  # below it the host launches kernels more slowly than a large card runs them
MAX_CUDA_BATCH_TOKENS = 65_536  # above it nothing gets faster
PROBE_TOKENS = 4096
LEAST_BATCH_TOKENS = 512  # what does not fit is split whatever the budget; below this, every other batch would pay
CLEAN_BATCHES = 64  # full ones in a row, before a larger batch is risked again: it costs one launch that fails
PAUSES_S = (1.0, 4.0, 15.0)  # for others to give memory back, where not even a few tokens fit

_SHARE = 0.5  # of the free memory: other heads and processes live on the device, and memory fragments
_LARGEST_SHARE = 0.9  # where half of it does not hold the smallest budget that is fast
_STEP = 1024
_LEAST_TOKENS = 16
_PROBE_LENGTH = 512


class TokenBudget:
    """The token budget, which memory that runs out halves and batches that fit double again. Threads may share it.

    What takes the memory may be one batch full of masks, or a neighbour on the device that is gone a minute later.

    Args:
        most: What it starts from and never exceeds.
    """

    def __init__(self, most: int) -> None:
        self.tokens = self._most = most
        self._clean = 0
        self._lock = threading.Lock()

    def shrink(self, used: int) -> None:
        """Take note that ``used`` tokens together did not fit."""
        with self._lock:
            self.tokens = max(min(self.tokens, used // 2), min(LEAST_BATCH_TOKENS, self._most))
            self._clean = 0

    def fitted(self, used: int) -> None:
        """Take note that ``used`` tokens did; batches that are not half full say nothing about larger ones."""
        with self._lock:
            if self.tokens == self._most or 2 * used < self.tokens:
                return
            self._clean += 1
            if self._clean == CLEAN_BATCHES:
                self.tokens, self._clean = min(2 * self.tokens, self._most), 0


def plain_tokens(num_tokens: int, *, longest: int) -> TokenBatch:
    """That many tokens in documents of usual lengths, of ``longest`` tokens at most; none of them is a mask."""
    bounds = np.append(np.arange(0, num_tokens, min(longest, _PROBE_LENGTH)), num_tokens)
    documents = np.arange(len(bounds) - 1)
    ids = np.zeros(num_tokens, dtype=np.int32)
    kept = np.zeros(len(documents), dtype=np.bool_)
    return TokenBatch(ids, bounds, documents, documents.astype(np.int32), kept)


def suitable_batch_tokens(run: Callable[[int], bool], device: torch.device) -> int:
    """The token budget for a loaded model.

    Args:
        run: Computes documents of that many tokens together and waits for the results; False if memory runs out.
        device: Where.

    Returns:
        On CUDA devices what the memory holds, from one forward of ``PROBE_TOKENS`` tokens without any masks. Too much
        for some inputs, or once other processes want memory too: a batch that does not fit is split.

    Raises:
        MemoryError: A CUDA device has no memory for any work worth the name; each document would be an error row.
    """
    if device.type != "cuda":
        return CPU_BATCH_TOKENS
    fits = run(PROBE_TOKENS)  # what stays allocated, as workspaces of libraries, is not the tokens'
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    if not fits or not run(PROBE_TOKENS):
        if not run(_LEAST_TOKENS):
            raise MemoryError(f"not even {_LEAST_TOKENS} tokens can be computed beside the models")
        return PROBE_TOKENS // 2
    bytes_per_token = (torch.cuda.max_memory_allocated(device) - before) / PROBE_TOKENS
    free_bytes, _ = torch.cuda.mem_get_info(device)
    kept_bytes = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # free inside torch
    return batch_tokens_for(free_bytes + kept_bytes, bytes_per_token=bytes_per_token)


def batch_tokens_for(free_bytes: int, *, bytes_per_token: float) -> int:
    """The token budget that the free memory of a CUDA device allows, from 1 to ``MAX_CUDA_BATCH_TOKENS``."""
    fitting = free_bytes / max(bytes_per_token, 1.0)
    wanted = max(fitting * _SHARE, min(fitting * _LARGEST_SHARE, MIN_CUDA_BATCH_TOKENS))
    tokens = int(min(wanted, MAX_CUDA_BATCH_TOKENS))
    return max(tokens - tokens % _STEP, 1) if tokens > _STEP else max(tokens, 1)
