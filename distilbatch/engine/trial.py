"""What reduced precisions make of a job's own documents: their labels and their speed beside those of float32.

Runs in a process of its own, because a document may kill the process that computes it, and because the models of
several precisions would stay in the driver's memory.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa

from distilbatch.engine.agreement import agreeing
from distilbatch.engine.heads import Heads
from distilbatch.engine.sampling import read_sample
from distilbatch.engine.spec import ShardTask, WorkerSpec

EXACT = "float32"
_POLL_S = 0.2
_SAID = 300  # characters of what a failed trial printed last


@dataclass(frozen=True, slots=True)
class Trial:
    """Figures of one trial.

    Args:
        rows: Sampled rows that float32 annotates.
        agreement: Share of them that keep their labels, by precision.
        rows_per_s: Speed of the models alone, by precision.
    """

    rows: int
    agreement: dict[str, float]
    rows_per_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a trial is to do.

    Args:
        spec: What workers of the job do.
        tasks: The shards to sample.
        max_rows: Rows of each of them.
        precisions: What to compare with float32.
    """

    spec: WorkerSpec
    tasks: tuple[ShardTask, ...]
    max_rows: int
    precisions: tuple[str, ...]


def run_trial(assignment: Assignment, *, stop: threading.Event) -> Trial | str:
    """Run a trial in a process of its own.

    Returns:
        Its figures, or why there are none.
    """
    with tempfile.TemporaryDirectory(prefix="distilbatch-trial-") as folder:
        orders, answer, said = (Path(folder) / name for name in ("orders", "answer.json", "said"))
        orders.write_bytes(pickle.dumps(assignment))  # from this process to its own child
        package = Path(__file__).parents[2]
        paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
        with said.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "distilbatch.engine.trial", str(orders), str(answer)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
            try:
                while process.poll() is None and not stop.wait(_POLL_S):
                    pass
            finally:
                process.kill()  # does nothing to a process that has ended
                process.wait()
        if answer.is_file():
            return Trial(**json.loads(answer.read_text("utf-8")))
        last = said.read_text("utf-8", errors="replace").strip()[-_SAID:]
        return f"the trial ended with code {process.returncode}: {' '.join(last.split())}"


def measure(assignment: Assignment) -> Trial:
    """Compute the sample in float32 and in each precision, in this process.

    Raises:
        DistilbatchError: The sample cannot be read, or the models cannot run.
    """
    batches = [batch for task in assignment.tasks for batch in read_sample(assignment.spec, task, assignment.max_rows)]
    exact, seconds = _annotate(assignment.spec, batches, EXACT)
    times = {EXACT: seconds}
    agreement: dict[str, float] = {}
    rows = 0
    for precision in assignment.precisions:
        found, times[precision] = _annotate(assignment.spec, batches, precision)
        same = [agreeing(a, b) for a, b in zip(exact, found, strict=True)]
        rows = sum(len(part) for part in same)
        agreement[precision] = sum(int(part.sum()) for part in same) / max(1, rows)
    return Trial(rows, agreement, {name: round(rows / max(taken, 1e-9), 2) for name, taken in times.items()})


def _annotate(
    spec: WorkerSpec, batches: Sequence[pa.RecordBatch], precision: str
) -> tuple[list[tuple[pa.Array, ...]], float]:
    """The columns of each batch, and the seconds of the models alone."""
    heads = Heads(spec.heads, device=replace(spec.device, precision=precision), max_doc_bytes=spec.max_doc_bytes)
    heads.predict(heads.tokenize(heads.harmless()))  # the first call of a kernel compiles it
    columns, seconds = [], 0.0
    for batch in batches:
        buffer = heads.tokenize(dict(zip(batch.schema.names, batch.columns, strict=True)))
        outputs = heads.predict(buffer)
        seconds += sum(output.seconds for output in outputs)
        columns.append(heads.decode(buffer, outputs).columns)
    return columns, seconds


def _main(orders: str, answer: str) -> None:
    trial = measure(pickle.loads(Path(orders).read_bytes()))  # written by run_trial, for this process alone
    Path(answer).write_text(json.dumps(asdict(trial)), "utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
