"""The process of a trial: computes a sample of documents in float32 and in other precisions, and compares."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from distilbatch.engine.agreement import agreeing
from distilbatch.engine.attempt import PREDICT, TOKENIZE
from distilbatch.engine.heads import Heads
from distilbatch.engine.memory import steady_memory
from distilbatch.engine.sampling import read_sample
from distilbatch.engine.spec import WorkerSpec
from distilbatch.engine.stages import StageClock
from distilbatch.engine.trial import EXACT, Assignment, Trial
from distilbatch.engine.watchdog import EndWithStacks, Watchdog
from distilbatch.errors import DistilbatchError
from distilbatch.inference.precision import fast_precisions, resolve_device


def measure(assignment: Assignment, watchdog: Watchdog | None = None) -> Trial:
    """Compute the sample in float32 and in each precision, in this process; nothing where there is none to compare.

    Args:
        assignment: What to compute.
        watchdog: Told of the work that is under way; None where nobody watches.

    Raises:
        DistilbatchError: The sample cannot be read, or the models cannot run.
    """
    device = resolve_device(assignment.spec.device.device)
    precisions = fast_precisions(device) if assignment.precisions is None else assignment.precisions
    if not precisions:
        return Trial(0, {}, {}, device.type)
    clock = StageClock(watchdog)
    samples = (read_sample(assignment.spec, task, assignment.max_rows) for task in assignment.tasks)
    batches = [batch for sample in samples for batch in clock.measure_each("read", sample)]
    exact, seconds = _annotate(assignment.spec, batches, EXACT, clock)
    times = {EXACT: seconds}
    agreement: dict[str, float] = {}
    rows = 0
    for precision in precisions:
        found, times[precision] = _annotate(assignment.spec, batches, precision, clock)
        same = [agreeing(a, b) for a, b in zip(exact, found, strict=True)]
        rows = sum(len(part) for part in same)
        agreement[precision] = sum(int(part.sum()) for part in same) / max(1, rows)
    speeds = {name: round(rows / max(taken, 1e-9), 2) for name, taken in times.items()}
    return Trial(rows, agreement, speeds if device.type == "cpu" else {}, device.type)


def _annotate(
    spec: WorkerSpec, batches: Sequence[pa.RecordBatch], precision: str, clock: StageClock
) -> tuple[list[tuple[pa.Array, ...]], float]:
    """The columns of each batch, and the seconds of the models alone."""
    device = replace(spec.device, precision=precision, settled=False)
    heads = Heads(spec.heads, device=device, max_doc_bytes=spec.max_doc_bytes)
    heads.predict(heads.tokenize(heads.harmless()))  # the first call of a kernel compiles it
    columns, seconds = [], 0.0
    for batch in batches:
        with clock.measure(TOKENIZE):
            buffer = heads.tokenize(dict(zip(batch.schema.names, batch.columns, strict=True)))
        with clock.measure(PREDICT):
            outputs = heads.predict(buffer, on_batch=lambda _rows: clock.beat(PREDICT))
        seconds += sum(output.seconds for output in outputs)
        columns.append(heads.decode(buffer, outputs).columns)
    return columns, seconds


def _main(orders: str, answer: str) -> None:
    steady_memory()
    assignment: Assignment = pickle.loads(Path(orders).read_bytes())  # written by run_trial, for this process alone
    try:
        watchdog = Watchdog(assignment.spec.hang_timeout_s, alarm=EndWithStacks(sys.stderr.buffer))
        found: dict[str, Any] | str = asdict(measure(assignment, watchdog))
    except DistilbatchError as error:
        found = str(error)
    Path(answer).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
