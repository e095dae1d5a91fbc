"""Smaller races beside the main one and in its rounds: ourselves on MiniLM, and on a GPU on documents of 128 tokens.

The former says what a smaller model gains, on the same documents. Published figures and targets of GPUs are stated for
the latter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distilbatch.bench.documents import long_documents
from distilbatch.bench.models import MINILM, write_minilm
from distilbatch.bench.options import BenchOptions
from distilbatch.bench.prepare import Prepared
from distilbatch.bench.roster import SIDE, Entrant, ourselves
from distilbatch.bench.sizing import MIN_DOCUMENTS
from distilbatch.bench.workload import Workload
from distilbatch.model.configuration import CONFIG_FILE, DistilBertConfig

FIXED_TOKENS = 128
FIXED = f"fixed{FIXED_TOKENS}"
_COSTS = {MINILM: 0.3, FIXED: 1.0}  # of a pass, in passes of the main race


@dataclass(frozen=True, slots=True)
class Side:
    """What the contestants of a side race compute.

    Args:
        name: Of the race, and of the family of its contestants.
        model_name: What the model is.
        workload: Documents and model.
        lengths: ``(N,)`` tokens of each document.
    """

    name: str
    model_name: str
    workload: Workload
    lengths: NDArray[np.int64]

    @property
    def model_config(self) -> DistilBertConfig:
        """Sizes of its model."""
        return DistilBertConfig.from_file(self.workload.model / CONFIG_FILE)


def side_entrants(options: BenchOptions, prepared: Prepared, precisions: Sequence[str]) -> list[Entrant]:
    """Ourselves, the model only, in the races there are.

    MiniLM runs beside the base model, and documents of one length beside the mix on a GPU.
    """
    fixed = prepared.mixed and prepared.device != "cpu"
    sides = [*([MINILM] if options.measures_base else []), *([FIXED] if fixed else [])]
    return [
        replace(ourselves(precision), name=f"{side}-{precision}", kind=SIDE, side=side, cost=_COSTS[side])
        for side in sides
        for precision in precisions
    ]


def make_side(name: str, prepared: Prepared, workload: Workload, lengths: NDArray[np.int64]) -> Side:
    """Write what a side race needs.

    Args:
        name: ``minilm`` or ``fixed128``.
        prepared: Of the main race.
        workload: Of the main race.
        lengths: Of its documents.
    """
    if name == MINILM:
        folder = prepared.scratch / MINILM
        model_name = write_minilm(folder, seed=prepared.seed)
        return Side(name, model_name, _changed(workload, {"model": str(folder)}, model=folder), lengths)
    # As many tokens as in the main race.
    count = max(MIN_DOCUMENTS, int(lengths.sum()) // FIXED_TOKENS)
    texts = long_documents(prepared.tokenizer, count, tokens=FIXED_TOKENS, seed=prepared.seed)
    documents = prepared.scratch / f"{FIXED}.parquet"
    pq.write_table(pa.table({workload.text_column: texts}), documents)
    changes: dict[str, Any] = {"documents": documents, "num_documents": count, "max_length": FIXED_TOKENS}
    fixed = np.full(count, FIXED_TOKENS, dtype=np.int64)
    return Side(name, prepared.model_name, _changed(workload, {"max_length": FIXED_TOKENS}, **changes), fixed)


def _changed(workload: Workload, annotation: Mapping[str, Any], **changes: Any) -> Workload:  # noqa: ANN401
    """Another workload: its config's first annotation and source say the same as its fields."""
    first, *others = workload.config["annotate"]
    documents: Path = changes.get("documents", workload.documents)
    config = {
        **workload.config,
        "annotate": [{**first, **annotation}, *others],
        "source": {**workload.config["source"], "path": str(documents)},
    }
    return replace(workload, config=config, **changes)
