"""One try at a shard: its id, the trace it leaves of the rows it computes, and how it is given up."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from distilbatch.engine.spec import ShardTask
from distilbatch.errors import InterruptedRunError
from distilbatch.oserrors import storing
from distilbatch.records import SourceBatch

# In the order in which a death is looked into: the fewest rows first.
PREDICT, TOKENIZE, DECODE = "predict", "tokenize", "decode"
STAGES = (PREDICT, TOKENIZE, DECODE)
PROBE = "probe"


class Attempt:
    """One try at a shard.

    The trace is written without fsync: the page cache outlives the process, and a machine that goes down is not
    the fault of a row.

    Args:
        task: The shard.
        trace: Where the trace goes.
        stop: Once set, the attempt is given up before its next token batch; None for never.
    """

    def __init__(self, task: ShardTask, *, trace: Path, stop: threading.Event | None) -> None:
        self.task = task
        self.fragment = task.fragment
        self.attempt_id = uuid4().hex
        self._stop = stop
        self._path = trace
        self._files: dict[str, int] = {}

    def leave_trace(self, stage: str, rows: NDArray[np.int64]) -> None:
        """Note the source rows that ``stage`` is about to compute.

        Raises:
            InterruptedRunError: The run is being stopped.
            ResourceError: The disk is full.
            SetupError: The file system failed.
        """
        if self._stop is not None and self._stop.is_set():
            raise InterruptedRunError(
                f"shard {self.task.shard.index} was given up", remedy="run the same command again"
            )
        data = np.concatenate([[len(rows)], rows]).astype(np.int64).tobytes()
        file = _trace_file(self._path, stage)
        with storing("write", file):
            if stage not in self._files:
                file.parent.mkdir(parents=True, exist_ok=True)
                self._files[stage] = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.pwrite(self._files[stage], data, 0)

    def crashing_rows(self, buffer: SourceBatch) -> dict[int, str]:
        """Buffer rows that must not be computed, with their errors."""
        start, stop = buffer.row_start, buffer.row_start + buffer.batch.num_rows
        return {row - start: error for row, error in self.task.crashing_rows.items() if start <= row < stop}

    def close(self) -> None:
        """Remove the trace: the attempt ended without the help of the operating system."""
        for stage, handle in self._files.items():
            os.close(handle)
            _trace_file(self._path, stage).unlink(missing_ok=True)


def take_trace(path: Path, stage: str) -> tuple[int, ...]:
    """The source rows that ``stage`` of a dead attempt was computing, rising; empty when it left no trace.

    The trace is removed, so that the rows are not blamed for the next death as well.
    """
    file = _trace_file(path, stage)
    values = np.fromfile(file, dtype=np.int64) if file.is_file() else np.zeros(1, np.int64)
    file.unlink(missing_ok=True)
    if not len(values) or not 0 < values[0] < len(values):
        return ()
    return tuple(sorted(set(values[1 : int(values[0]) + 1].tolist())))


def _trace_file(path: Path, stage: str) -> Path:
    return path.with_suffix(f".{stage}.rows")
