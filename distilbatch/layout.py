"""The only place that builds a path inside an output directory.

    <sink>/data/[key=value/...]part-00012-<shard id>[-<n>].parquet   published files, nothing else
    <sink>/_distilbatch/<job>/claims/000001.json                     who labels which rows, in order
    <sink>/_distilbatch/<job>/<window>/plan.json ...                 one folder per run key

Readers that glob ``data/**/*.parquet`` therefore never meet a file that is not finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

DATA_DIR = "data"
CONTROL_DIR = "_distilbatch"
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def partition_segment(key: str, value: str | None) -> str:
    """One Hive folder name, ``key=value``; both are percent-encoded so that data can never form a path."""
    text = HIVE_NULL if value is None else quote(value, safe="")
    return f"{quote(key, safe='')}={text}"


@dataclass(frozen=True, slots=True)
class SinkLayout:
    """Paths that belong to a sink as a whole.

    Args:
        root: The sink's folder.
    """

    root: Path

    @property
    def data(self) -> Path:
        """The folder of published files."""
        return self.root / DATA_DIR

    @property
    def control(self) -> Path:
        """The folder of records; readers never look here."""
        return self.root / CONTROL_DIR

    def claims(self, job: str) -> Path:
        """The job's chain of claims, one numbered record per planned run."""
        return self.control / job / "claims"

    def claim(self, job: str, number: int) -> Path:
        """Record ``number`` (from 1) of the job's chain of claims."""
        return self.claims(job) / f"{number:06d}.json"

    def run(self, job: str, window: str) -> RunLayout:
        """Paths of one run key."""
        return RunLayout(self.root, job, window)

    def plans(self) -> list[Path]:
        """Every ``plan.json`` below the sink, in name order."""
        return sorted(self.control.glob("*/*/plan.json"))


@dataclass(frozen=True, slots=True)
class RunLayout:
    """Paths of one run key: job + logical window.

    Args:
        root: The sink's folder.
        job: The job's name.
        window: The logical window's name, such as ``2026-11-20`` or ``once``.
    """

    root: Path
    job: str
    window: str

    @property
    def control(self) -> Path:
        """The run's folder of records."""
        return self.root / CONTROL_DIR / self.job / self.window

    @property
    def plan(self) -> Path:
        """The immutable plan."""
        return self.control / "plan.json"

    @property
    def precision(self) -> Path:
        """The record of the precision that every attempt computes in."""
        return self.control / "precision.json"

    @property
    def epochs(self) -> Path:
        """The folder of ownership records."""
        return self.control / "epoch"

    def epoch(self, number: int) -> Path:
        """Ownership record ``number`` (from 1)."""
        return self.epochs / f"{number:06d}.json"

    def heartbeat(self, number: int) -> Path:
        """The owner's counter; the only file that is rewritten in place."""
        return self.epochs / f"{number:06d}.hb"

    @property
    def staging(self) -> Path:
        """Attempt-unique files: on the same file system as ``data/``, invisible to readers."""
        return self.control / "staging"

    def staged(self, shard: int, attempt_id: str, part: int) -> Path:
        """File ``part`` (from 0) of one attempt at a shard."""
        return self.staging / f"{shard:05d}-{attempt_id}-{part:03d}.parquet"

    def trace(self, shard: int) -> Path:
        """The rows a worker computes right now: evidence when its process dies."""
        return self.staging / f"{shard:05d}.trace"

    def stacks(self, worker: str) -> Path:
        """Where a worker that hangs leaves the stacks of its threads; empty as long as it does not."""
        return self.staging / f"{worker}.stacks"

    @property
    def shards(self) -> Path:
        """The folder of shard records."""
        return self.control / "shards"

    def shard(self, shard: int) -> Path:
        """The record that elects a shard's winning attempt."""
        return self.shards / f"{shard:05d}.json"

    @property
    def deaths(self) -> Path:
        """The folder of evidence about rows that kill their worker, one folder per shard."""
        return self.control / "deaths"

    def death(self, shard: int, number: int) -> Path:
        """Evidence ``number`` (from 1) about rows of a shard."""
        return self.deaths / f"{shard:05d}" / f"{number:06d}.json"

    @property
    def commit(self) -> Path:
        """The record that decides the whole run."""
        return self.control / "commit.json"

    @property
    def done(self) -> Path:
        """The record that says publishing is finished."""
        return self.control / "done.json"

    @property
    def metrics(self) -> Path:
        """Figures of the run; derived, may be overwritten."""
        return self.control / "metrics.json"

    @property
    def dead_letter(self) -> Path:
        """Rows that could not be annotated, with their text; derived, may be overwritten."""
        return self.control / "dead_letter.parquet"

    def published(self, partition: tuple[tuple[str, str | None], ...], name: str) -> Path:
        """Where a file of the given partition values is published."""
        folder = self.root / DATA_DIR
        for key, value in partition:
            folder = folder / partition_segment(key, value)
        return folder / name


def published_name(shard: int, shard_id: str, part: int, parts: int) -> str:
    """The derived name of a published file: hashes and integers only, the same for every attempt."""
    suffix = "" if parts == 1 else f"-{part:03d}"
    return f"part-{shard:05d}-{shard_id[:12]}{suffix}.parquet"
