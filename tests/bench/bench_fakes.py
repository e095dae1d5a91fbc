"""Contestants that do one thing, for the race: they compute at once, die, hang, refuse, print or are slow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilbatch.bench.competitor import Competitor
from distilbatch.bench.race import Pass, Standing
from distilbatch.bench.roster import PEER, Entrant
from distilbatch.bench.workload import Workload
from distilbatch.errors import SetupError


class Scripted(Competitor):
    """Notes each call in a file that all share, then does what its name says."""

    def __init__(self, workload: Workload, *, name: str, act: str = "") -> None:
        self._notes, self._name, self._act = workload.scratch / "notes", name, act
        if act == "refuses":
            raise SetupError("this processor is too old", remedy="buy another")
        if act == "cannot load":
            raise ValueError("a file is damaged")

    scopes = ("model",)

    def describe(self) -> Mapping[str, Any]:
        return {"version": "1.0"}

    def probe(self) -> None:
        if self._act == "is slow":
            time.sleep(0.2)

    def outputs(self) -> NDArray[np.float32]:
        self._note("warms up")
        return np.zeros((2, 2), dtype=np.float32)

    def run(self, scope: str) -> Mapping[str, Any]:
        self._note("runs")
        if self._act == "dies":
            os.write(2, b"terminate called\n")
            os.abort()
        if self._act == "hangs":
            time.sleep(600)
        if self._act == "prints":
            os.write(1, b"progress: 100 %\n")
        if self._act == "fails":
            raise RuntimeError("no such kernel")
        return {"tokens_computed": 7}

    def _note(self, what: str) -> None:
        with self._notes.open("a") as file:
            file.write(f"{self._name} {what}\n")


def scripted(name: str, act: str = "", *, precision: str = "float32", **changes: Any) -> Entrant:
    """An entrant of that kind."""
    return Entrant(name, PEER, precision, "bench_fakes:Scripted", {"name": name, "act": act}, **changes)


def timed(entrant: Entrant, **seconds: list[float]) -> Standing:
    """A standing with these passes, by scope."""
    passes = {scope: [Pass(n, s, {}) for n, s in enumerate(found)] for scope, found in seconds.items()}
    return Standing(entrant, passes=passes)


def make_workload(folder: Path, **changes: Any) -> Workload:
    """A workload below a folder that nobody reads documents of."""
    values: dict[str, Any] = {
        "config": {},
        "documents": folder / "documents.parquet",
        "text_column": "text",
        "num_documents": 2,
        "model": folder / "model",
        "task": "text-classification",
        "pooling": "",
        "max_length": 16,
        "max_batch_tokens": 64,
        "threads": 1,
        "device": "cpu",
        "scratch": folder,
    }
    return Workload(**{**values, **changes})
