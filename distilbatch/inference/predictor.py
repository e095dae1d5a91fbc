"""One trunk pinned to one device, with the heads that share it: token batches in, head outputs on the host out."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilbatch.inference.backends import Backend, choose_backend
from distilbatch.inference.budget import PAUSES_S, STREAM_BATCH_TOKENS, TokenBudget, plain_tokens, suitable_batch_tokens
from distilbatch.inference.faults import is_out_of_memory, starved
from distilbatch.inference.flights import ArrivingPart, BusyClock, Flight, Part, assemble
from distilbatch.inference.packing import pack
from distilbatch.inference.precision import storage_dtype
from distilbatch.inference.readouts import Needs, Readout
from distilbatch.inference.streams import Streams, suitable_streams
from distilbatch.inference.transfer import Arrival, Mark, SentBatch, send
from distilbatch.model.modeling import DistilBertModel, PreTrainedModel
from distilbatch.model.packed import Rows
from distilbatch.records import HeadOutput, TokenBatch


class BatchObserver(Protocol):
    """Told which documents run next."""

    def __call__(self, documents: NDArray[np.int64], /) -> None:
        """Take note of ``documents``: indices of the token batch about to run, behind those that may still run."""


class Predictor:
    """Runs heads over documents of any lengths, within a token budget. Threads may share it.

    Args:
        models: Models with equal encoders; the first one's encoder is pinned and used for all.
        readouts: What to read off each model.
        device: Where they run.
        precision: What they compute in, one of ``precision.PRECISIONS``.
        max_batch_tokens: Most tokens of one forward call; fewer for a time when memory runs out. None suits the device.
        backend: The kernels; None chooses the fastest that this machine has.
        compiled: Whether torch may compile layers where that pays, for some time at start.
    """

    max_unread = 0
    """Token batches that may be under way when the next one is launched; 1 on devices that compute beside the host."""

    streams: Streams
    """Where token batches run side by side."""

    canary_tokens = 512
    """Tokens without masks that fit beside a loaded model, unless others took the memory."""

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        readouts: Sequence[Readout],
        *,
        device: torch.device,
        precision: str,
        max_batch_tokens: int | None = None,
        backend: Backend | None = None,
        compiled: bool = False,
    ) -> None:
        dtype = storage_dtype(precision)
        backend = backend or choose_backend(precision, device, dtype, compiled=compiled)
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
        self._token_ids = tuple({needs: None for readout in readouts if isinstance(needs := readout.needs, int)})
        self._device = device
        self._lock = threading.RLock()
        self._clock = BusyClock()
        if device.type == "cuda":
            self.max_unread = 1
        self.streams = suitable_streams(device)
        self._budget = TokenBudget(max_batch_tokens or self._suitable_batch_tokens())

    @property
    def max_batch_tokens(self) -> int:
        """Most tokens of one forward call at present; only a document that is longer gets more."""
        return self._budget.tokens

    def predict(self, tokens: TokenBatch, *, on_batch: BatchObserver | None = None) -> list[HeadOutput]:
        """Compute what every head says of the documents.

        Args:
            tokens: N documents in any order.
            on_batch: Called with the documents of each token batch before it runs, and of those whose results are
                not read yet: what a crash would name.

        Returns:
            One output for each model; tokens and seconds of the shared forward are in the first. A document that
            does not fit into memory even alone is in none of them.

        Raises:
            ResourceError: Others have taken the memory of the device, and did not give it back for some time.
        """
        parts: list[list[Part]] = [[] for _ in self._models]
        computed, seconds = 0, 0.0
        with self._buffer_lock():
            for flight in self._flights(tokens, on_batch):
                computed += int(tokens.lengths[flight.documents].sum())
                for collected, part in zip(parts, flight.land(), strict=True):
                    collected.append(part)
                seconds += self._clock.busy_since(flight.start)
        first, *others = parts
        return [
            assemble(first, tokens_computed=computed, seconds=seconds),
            *(assemble(collected, tokens_computed=0, seconds=0.0) for collected in others),
        ]

    def _buffer_lock(self) -> AbstractContextManager[object]:
        """Held from the first launch to the last result, on devices that compute while the host waits.

        Two buffers would only fight over the same cores. A device beside the host would stand still from one buffer's
        last launch to the next one's first, so there each launch holds the lock by itself: work runs in the order of
        the launches, on one stream, and a flight keeps nothing on the device.
        """
        return nullcontext() if self.max_unread else self._lock

    def _flights(self, tokens: TokenBatch, on_batch: BatchObserver | None) -> Iterator[Flight]:
        """Compute the token batches in order, as many as fill all streams side by side, and the rest with all cores."""
        batches = pack(tokens.lengths, max_batch_tokens=self.max_batch_tokens)
        beside = self.streams.whole_rounds(len(batches))
        yield from self._side_by_side(tokens, batches[:beside], on_batch)
        yield from self._in_turn(tokens, batches[beside:], on_batch)

    def _side_by_side(
        self, tokens: TokenBatch, batches: Sequence[NDArray[np.int64]], on_batch: BatchObserver | None
    ) -> Iterator[Flight]:
        """Compute token batches in streams; one waits for the stream that is free next."""
        under_way: deque[tuple[NDArray[np.int64], Future[list[Flight]]]] = deque()
        try:
            for documents in batches:
                if len(under_way) > self.streams.count:
                    yield from under_way.popleft()[1].result()
                if on_batch is not None:
                    on_batch(np.concatenate([*(others for others, _ in under_way), documents]))
                under_way.append((documents, self.streams.submit(self._launched, tokens, documents)))
            while under_way:
                yield from under_way.popleft()[1].result()
        finally:  # what still runs would disturb the next buffer, or outlive a hook's error
            wait([future for _, future in under_way if not future.cancel()])

    def _in_turn(
        self, tokens: TokenBatch, batches: Sequence[NDArray[np.int64]], on_batch: BatchObserver | None
    ) -> Iterator[Flight]:
        """Launch token batches one by one; hand each out when ``max_unread`` newer ones are launched."""
        unread: deque[Flight] = deque()
        for documents in batches:
            with self._lock:
                if on_batch is not None:
                    on_batch(np.concatenate([*(flight.documents for flight in unread), documents]))
                unread.extend(self._launch_or_split(tokens, documents))
            while len(unread) > self.max_unread:
                yield unread.popleft()
        yield from unread

    def _launched(self, tokens: TokenBatch, documents: NDArray[np.int64]) -> list[Flight]:
        return list(self._launch_or_split(tokens, documents))

    def _launch_or_split(self, tokens: TokenBatch, documents: NDArray[np.int64]) -> Iterator[Flight]:
        flight = self._launch_if_it_fits(tokens, documents)
        used = int(tokens.lengths[documents].sum())
        if flight is not None:
            self._budget.fitted(used)
            yield flight
        elif len(documents) > 1:
            self._budget.shrink(used)
            middle = len(documents) // 2
            for half in (documents[:middle], documents[middle:]):
                yield from self._launch_or_split(tokens, half)
        else:
            yield from self._launch_alone(tokens, documents, canary=min(used, self.canary_tokens))

    def _launch_alone(self, tokens: TokenBatch, document: NDArray[np.int64], *, canary: int) -> Iterator[Flight]:
        """Launch a document that did not fit by itself as soon as others leave room; none if they are not to blame."""
        for pause in PAUSES_S:
            if self._computes(canary):
                flight = self._launch_if_it_fits(tokens, document)  # the memory may be back since it failed
                if flight is not None:
                    yield flight
                return
            time.sleep(pause)
        raise starved(self._device, canary, seconds=sum(PAUSES_S))

    def _launch_if_it_fits(self, tokens: TokenBatch, documents: NDArray[np.int64]) -> Flight | None:
        try:
            return self._launch(tokens, documents)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the except block: the traceback's frames would keep the tensors of the failed call alive. Batches
        # under way are not concerned: memory is allocated when work is launched, so it was not theirs that ran out.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _launch(self, tokens: TokenBatch, documents: NDArray[np.int64]) -> Flight:
        start = time.perf_counter()
        with torch.inference_mode():
            sent = send(tokens, documents, token_ids=self._token_ids, device=self._device)
            states = self._encoder.forward_packed(sent.packed, _rows(self._needs, sent))
            parts = []
            for model, readout in zip(self._models, self._readouts, strict=True):
                own = states if readout.needs == self._needs else states[_device_rows(readout.needs, sent)]
                reading = readout.read(model, own, sent.packed)
                parts.append(
                    ArrivingPart(
                        _positions(readout, sent, documents),
                        Arrival(reading.values, torch.float32),
                        None if reading.ids is None else Arrival(reading.ids, torch.int64),
                    )
                )
            return Flight(documents, parts, Mark(self._device), start)

    def _suitable_batch_tokens(self) -> int:
        return STREAM_BATCH_TOKENS if self.streams.count else suitable_batch_tokens(self._computes, self._device)

    def _computes(self, num_tokens: int) -> bool:
        """Whether memory holds that many tokens, without masks, together."""
        tokens = plain_tokens(num_tokens, longest=self._models[0].config.max_position_embeddings)
        flight = self._launch_if_it_fits(tokens, np.arange(len(tokens)))
        return flight is not None and len(flight.land()) > 0


def _joint_needs(readouts: Sequence[Readout]) -> Needs:
    needs = {readout.needs for readout in readouts}
    return needs.pop() if len(needs) == 1 else "all"


def _rows(needs: Needs, sent: SentBatch) -> Rows:
    if needs == "all":
        return None
    return "first" if needs == "first" else sent.selections[int(needs)]


def _device_rows(needs: Needs, sent: SentBatch) -> Tensor:
    """Rows of all states that a readout needs which does not need all."""
    if needs == "first":
        return sent.packed.layout.select("first", device=sent.packed.input_ids.device).rows
    return sent.selections[int(needs)].rows


def _positions(readout: Readout, sent: SentBatch, documents: NDArray[np.int64]) -> NDArray[np.int64]:
    if readout.axis == "documents":
        return documents
    return sent.index if readout.needs == "all" else sent.index[sent.host_rows[int(readout.needs)]]
