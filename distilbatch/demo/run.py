"""Runs the demo: builds its model, labels the documents that ship with the package, and picks rows to show."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from distilbatch import schema
from distilbatch.commit.store import LocalStore
from distilbatch.config import load_config
from distilbatch.config.document import to_yaml
from distilbatch.demo.build import build_demo_model
from distilbatch.engine.driver import Progress, run
from distilbatch.engine.summary import RunReport
from distilbatch.records import RowStatus

__all__ = ["HEAD", "Demo", "DemoReport", "Example", "read_examples"]

DOCUMENTS = Path(__file__).with_name("documents.parquet")
HEAD = "topic"
NUM_EXAMPLES = 10
_TEXT = "text"
_SHARD_ROWS = 400  # six shards: several actors get work, and the demo can be stopped half way


@dataclass(frozen=True, slots=True)
class Example:
    """A document and the label it got."""

    text: str
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What came out of the demo.

    Args:
        run: What the run did.
        examples: A document for each of the most frequent labels.
        config: The config file that does the same with ``distilbatch run``.
    """

    run: RunReport
    examples: tuple[Example, ...]
    config: Path


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo below a folder.

    Args:
        out: The folder; made when missing.
        engine: ``ray`` or ``local``.
    """

    out: Path
    engine: str = "ray"

    @property
    def sink(self) -> Path:
        """The folder of the output table."""
        return self.out / "topics"

    @property
    def model(self) -> Path:
        """The folder of the checkpoint."""
        return self.out / "model"

    @property
    def config_file(self) -> Path:
        """A config to start one's own from."""
        return self.out / "demo.yaml"

    def config(self) -> dict[str, Any]:
        """What ``config_file`` holds."""
        return {
            "version": 1,
            "job": {"name": "demo"},
            "source": {"path": str(DOCUMENTS), "columns": {"text": _TEXT}},
            "annotate": [{"name": HEAD, "task": "text-classification", "model": str(self.model), "top_k": 3}],
            "sink": {"path": str(self.sink), "passthrough": ["id", "registry"], "partition_by": ["registry"]},
            "engine": {"type": self.engine, "shard_rows": _SHARD_ROWS},
        }

    def run(self, *, progress: Progress | None = None, stop: threading.Event | None = None) -> DemoReport:
        """Build the model if it is not there, label the documents unless that is done, and pick examples.

        Args:
            progress: Told how the run goes on.
            stop: Once set, the run ends at a resumable point.

        Raises:
            DistilbatchError: As :func:`distilbatch.run`, and when the encoder's weights cannot be had.
        """
        config = load_config(self.config())
        build_demo_model(self.model)
        text = f"# distilbatch run {self.config_file}\n" + to_yaml(self.config())
        LocalStore().put_new(self.config_file, text.encode())  # an edited one stays
        report = run(config, progress=progress, stop=stop)
        examples = read_examples(Path(report.data), documents=DOCUMENTS, count=NUM_EXAMPLES)
        return DemoReport(report, examples, self.config_file)


def read_examples(data: Path, *, documents: Path, count: int) -> tuple[Example, ...]:
    """Pick the first document of each of the most frequent labels.

    Args:
        data: The published files.
        documents: The Parquet file that was labelled.
        count: How many labels.
    """
    texts = pq.read_table(documents, columns=[_TEXT]).column(_TEXT)
    labelled = pq.read_table(data, columns=[HEAD, schema.ROW])
    first: dict[str, tuple[int, float]] = {}
    counts: dict[str, int] = {}
    for prediction, row in zip(labelled.column(HEAD).to_pylist(), labelled.column(schema.ROW).to_pylist(), strict=True):
        if row[schema.STATUS] != RowStatus.OK.value:
            continue
        label, place = prediction[schema.LABEL], (row[schema.SOURCE_ROW], prediction[schema.SCORE])
        counts[label] = counts.get(label, 0) + 1
        first[label] = min(first.get(label, place), place)
    frequent = sorted(counts, key=lambda label: (-counts[label], label))[:count]
    return tuple(Example(texts[first[label][0]].as_py(), label, first[label][1]) for label in frequent)
