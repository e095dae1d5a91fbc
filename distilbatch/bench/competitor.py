"""The contract of what is measured: loaded once in a process of its own, then asked for timed passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distilbatch.bench.workload import Workload

MODEL = "model"
"""Scope of a pass: token ids, made beforehand, to logits on the host."""
TEXT = "text"
"""Scope of a pass: texts in memory to predictions."""
JOB = "job"
"""Scope of a pass: a Parquet file to Parquet files."""
LIMIT = "limit"
"""Scope of the machine's own pass: the matrix products alone."""


class Competitor(Protocol):
    """A model that is loaded, with the documents of its workload."""

    @property
    def scopes(self) -> tuple[str, ...]:
        """What it can be timed at."""

    def describe(self) -> Mapping[str, Any]:
        """What it is, in JSON values: versions, kernels."""

    def probe(self) -> None:
        """Compute the shortest documents: an emulated kernel shows here before it costs minutes."""

    def outputs(self) -> NDArray[np.float32]:
        """One pass over all documents: ``(N, C)`` logits or ``(N, H)`` embeddings, in document order."""

    def run(self, scope: str) -> Mapping[str, Any]:
        """One pass, which the caller times.

        Args:
            scope: One of ``scopes``.

        Returns:
            What is known of it besides its time, in JSON values; ``tokens_computed`` includes padding.
        """


Factory = Callable[..., Competitor]
"""Called with a :class:`Workload` and the contestant's own options, all by keyword."""


def probe_documents(workload: Workload) -> int:
    """How many of the shortest documents a probe computes: about a tenth of all tokens."""
    return min(max(8, workload.num_documents // 3), workload.num_documents)
