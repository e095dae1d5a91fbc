"""The way of a token batch to a device and of its results back, without making the host wait for the device.

One pinned copy carries everything that the device cannot derive; results go into pinned memory and are read when an
event says that they are there. On a CPU the same steps copy nothing and wait for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilbatch.inference.packing import token_index
from distilbatch.model.packed import PackedTokens, Selection
from distilbatch.records import TokenBatch


@dataclass(frozen=True)
class SentBatch:
    """A token batch on its device.

    Args:
        packed: The documents.
        index: ``(T,)`` int64 on the host, where each token is in the sort buffer's ``input_ids``.
        host_rows: By token id, the ``(Q,)`` rows of the tokens with it, on the host.
        selections: The same rows, selected on the device.
    """

    packed: PackedTokens
    index: NDArray[np.int64]
    host_rows: dict[int, NDArray[np.int64]]
    selections: dict[int, Selection]


def send(
    tokens: TokenBatch, documents: NDArray[np.int64], *, token_ids: Sequence[int], device: torch.device
) -> SentBatch:
    """Copy the chosen documents to the device, laid end to end in the given order.

    Args:
        tokens: The documents of a sort buffer.
        documents: ``(N,)`` indices of documents, at least one.
        token_ids: Tokens whose rows are needed on the device as well.
        device: Where to.
    """
    lengths = tokens.lengths[documents]
    index = token_index(tokens, documents)
    ids = tokens.input_ids[index]
    host_rows = {token_id: np.flatnonzero(ids == token_id) for token_id in token_ids}
    parts = [ids, np.cumsum([0, *lengths]), *host_rows.values()]
    sizes = [len(part) for part in parts]
    host = _host_memory((sum(sizes),), torch.int32, device)
    np.concatenate(parts, out=host.numpy(), casting="same_kind")
    input_ids, cu_seqlens, *rows = torch.split(host.to(device, non_blocking=True), sizes)
    packed = PackedTokens.from_lengths(input_ids, lengths.tolist(), cu_seqlens=cu_seqlens)
    selections = {
        token_id: packed.layout.select(torch.from_numpy(on_host), device=input_ids.device, on_device=on_device.long())
        for (token_id, on_host), on_device in zip(host_rows.items(), rows, strict=True)
    }
    return SentBatch(packed, index, host_rows, selections)


class Arrival:
    """A tensor on its way to the host.

    Args:
        tensor: Of any device.
        dtype: What it is on the host.
    """

    def __init__(self, tensor: Tensor, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._pinned = tensor.device.type != "cpu"
        if self._pinned:
            host = _host_memory(tuple(tensor.shape), tensor.dtype, tensor.device)  # half formats travel as they are
            self._host = host.copy_(tensor, non_blocking=True)
        else:
            self._host = tensor.to(dtype)

    def land(self) -> Tensor:
        """Return it; only after a :class:`Mark` set behind it was reached. Pinned memory is left to later batches."""
        return self._host.to(self._dtype, copy=self._pinned)


class Mark:
    """A place in the work of a device that the host can wait for.

    Args:
        device: Its present end of work is marked.
    """

    def __init__(self, device: torch.device) -> None:
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            # Blocking: a thread that spins would take a core from tokenization.
            self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Return when all work before the mark is done."""
        if self._event is not None:
            self._event.synchronize()


def _host_memory(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised; pinned if it is to exchange data with a device. torch reuses it after the copies it serves."""
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
