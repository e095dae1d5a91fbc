"""What reduced precisions make of a job's own documents: their labels and their speed beside those of float32.

Runs in a process of its own, because a document may kill the process that computes it, and because the models of
several precisions would stay in the driver's memory.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from distilbatch.engine.spec import ShardTask, WorkerSpec
from distilbatch.engine.watchdog import STACKS_BEGIN

EXACT = "float32"
_PROGRAM = "distilbatch.engine.trial_process"  # imports torch, which a driver can do without
_POLL_S = 0.2
_SAID = 300  # characters of what a failed trial printed last

_log = logging.getLogger("distilbatch")


@dataclass(frozen=True, slots=True)
class Trial:
    """Figures of one trial.

    Args:
        rows: Sampled rows that float32 annotates.
        agreement: Share of them that keep their labels, by precision.
        rows_per_s: Speed of the models alone, by precision; empty on CUDA, where so few rows take all of them the time
            of launching kernels.
        device: ``cpu`` or ``cuda``.
    """

    rows: int
    agreement: dict[str, float]
    rows_per_s: dict[str, float]
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a trial is to do.

    Args:
        spec: What workers of the job do.
        tasks: The shards to sample.
        max_rows: Rows of each of them.
        precisions: What to compare with float32; None for what the device computes faster, fastest first.
    """

    spec: WorkerSpec
    tasks: tuple[ShardTask, ...]
    max_rows: int
    precisions: tuple[str, ...] | None


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
                [sys.executable, "-m", _PROGRAM, str(orders), str(answer)],
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
            found = json.loads(answer.read_text("utf-8"))
            return found if isinstance(found, str) else Trial(**found)
        words = said.read_text("utf-8", errors="replace").strip()
        if (stacks := words.find(STACKS_BEGIN)) >= 0:
            _log.warning("the stacks of a trial that hung:\n%s", words[stacks:])
            limit = f"{assignment.spec.hang_timeout_s or 0:g} s (engine.hang_timeout_s)"
            return f"the trial made no progress for {limit}; its stacks are in the log"
        return f"the trial ended with code {process.returncode}: {' '.join(words[-_SAID:].split())}"
