"""Token batches on their way through a device, and their results put together again."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilbatch.inference.transfer import Arrival, Mark
from distilbatch.records import HeadOutput


class Part(NamedTuple):
    """A reading of one token batch on the host."""

    positions: NDArray[np.int64]
    values: NDArray[np.float32]
    ids: NDArray[np.int64] | None


class ArrivingPart(NamedTuple):
    """A reading of one token batch, on its way."""

    positions: NDArray[np.int64]
    values: Arrival
    ids: Arrival | None


@dataclass(frozen=True)
class Flight:
    """A token batch from its launch to the reading of its results."""

    documents: NDArray[np.int64]
    parts: list[ArrivingPart]
    mark: Mark
    start: float

    def land(self) -> list[Part]:
        """Wait for the results and return them, one a model."""
        self.mark.wait()
        return [
            Part(positions, values.land().numpy(), None if ids is None else ids.land().numpy())
            for positions, values, ids in self.parts
        ]


class BusyClock:
    """Shares the time of a device out among the flights of several threads: no moment counts twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted = 0.0

    def busy_since(self, start: float) -> float:
        """The seconds since ``start`` that were not handed out before."""
        with self._lock:
            before, self._counted = self._counted, time.perf_counter()
            return self._counted - max(start, before)


def assemble(parts: Sequence[Part], *, tokens_computed: int, seconds: float) -> HeadOutput:
    """Put the readings of all token batches, in any order, in the order of their positions."""
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
