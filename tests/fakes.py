"""Stand-ins for the tests of the commit protocol: tiny jobs, an executor without a model, a simulated file system."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distilbatch import schema
from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import CommitRecord, DoneRecord, OwnerRecord, PlanRecord, ShardRecord, parse
from distilbatch.commit.store import LocalStore, Store
from distilbatch.engine.driver import Driver, Progress, resolve_run
from distilbatch.engine.executor import Executor
from distilbatch.engine.job import Job
from distilbatch.engine.spec import Outcome, ShardTask, WorkerSpec
from distilbatch.errors import BusyError, SetupError
from distilbatch.fingerprint import sha256_bytes
from distilbatch.layout import RunLayout
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.records import ShardResult, StagedFile
from distilbatch.sink.parquet import ParquetStager

Place = tuple[str, int]


# --- Tiny jobs on real files -----------------------------------------------------------------------------------------


@dataclass
class Workspace:
    """A source, a sink and a checkpoint below one folder, and runs over them without a model.

    Args:
        root: An empty folder.
        rows_per_shard: Rows of a shard.
    """

    root: Path
    rows_per_shard: int = 4

    def __post_init__(self) -> None:
        self.source, self.sink, self.model = self.root / "in", self.root / "out", self.root / "model"
        self.source.mkdir(parents=True, exist_ok=True)
        if not self.model.exists():
            self.model.mkdir()
            self.write_model("first")

    def write_model(self, content: str) -> None:
        """A checkpoint that has an identity; nothing loads it."""
        config = DistilBertConfig(vocab_size=30, dim=8, n_layers=1, n_heads=2, hidden_dim=8)
        (self.model / "config.json").write_text(json.dumps(config.to_dict()))
        (self.model / "model.safetensors").write_text(content)

    def write_file(self, name: str, num_rows: int, *, start: int = 0, id_type: pa.DataType | None = None) -> None:
        """A source file with the columns ``id`` and ``text``."""
        ids = range(start, start + num_rows)
        columns = {"id": pa.array(ids, id_type or pa.int32()), "text": pa.array([f"text {i}" for i in ids])}
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)

    def config(self, **engine: object) -> dict[str, object]:
        """The config as a mapping."""
        return {
            "job": {"name": "nightly"},
            "source": {"path": str(self.source)},
            "annotate": [{"name": "label", "task": "text-classification", "model": str(self.model)}],
            "sink": {"path": str(self.sink), "passthrough": ["id"]},
            "engine": {"shard_rows": self.rows_per_shard, **engine},
        }

    def job(
        self, day: str | None = None, *, limit: int | None = None, overrides: Sequence[str] = (), **engine: object
    ) -> Job:
        """The resolved job of one window."""
        return resolve_run(self.config(**engine), day=day, limit=limit, overrides=overrides)

    def driver(self, job: Job, **arguments: object) -> Driver:
        """A driver with the fake executor; ``arguments`` are the driver's."""
        arguments.setdefault("make_executor", lambda _, spec: FakeExecutor(spec))
        return Driver(job, **arguments)

    def run(self, day: str | None = None, *, limit: int | None = None, overrides: Sequence[str] = ()):
        """Run one window to its end."""
        return self.driver(self.job(day, limit=limit, overrides=overrides)).run()

    def layout(self, day: str | None = None) -> RunLayout:
        """The paths of a window's run."""
        return self.job(day).layout

    def source_places(self) -> Counter[Place]:
        """Every row of the source as it is now, once."""
        return Counter(
            (path.relative_to(self.source).as_posix(), row)
            for path in self.source.rglob("*.parquet")
            for row in range(pq.read_metadata(path).num_rows)
        )

    def places(self) -> Counter[Place]:
        """Every published row by its place, as an independent reader sees it."""
        return published_places(self.sink)


def published_places(sink: Path) -> Counter[Place]:
    """File and row of every published row, read by DuckDB through the glob that readers use."""
    data = sink / "data"
    if not any(data.rglob("*.parquet")):
        return Counter()
    with duckdb.connect(config={"threads": 1}) as connection:
        rows = connection.execute(
            "SELECT _row.source_file, _row.source_row FROM read_parquet(?, union_by_name=true)", [f"{data}/**/*.parquet"]
        ).fetchall()
    return Counter(rows)


def files_below(folder: Path) -> list[str]:
    """Every file below a folder, temporary ones included."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class FakeExecutor(Executor):
    """Stages the Parquet files a worker would, with ``label = id % 3`` and no model.

    Args:
        spec: What a worker would get.
        log: Gets the index of every shard that is computed, one line each.
        failpoint: Called with a name before and after each shard is staged.
        delay_s: Time a shard takes; a stop is noticed meanwhile.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        log: Path | None = None,
        failpoint: Callable[[str], None] = lambda name: None,
        delay_s: float = 0.0,
    ) -> None:
        self._spec = spec
        self._log = log
        self._failpoint = failpoint
        self._delay_s = delay_s

    def run(self, tasks: Sequence[ShardTask], *, stop: threading.Event) -> Iterator[Outcome]:
        for task in tasks:
            if stop.is_set() or (self._delay_s and stop.wait(self._delay_s)):
                return
            if self._log is not None:
                with self._log.open("a") as log:
                    log.write(f"{task.shard.index}\n")
            self._failpoint(f"stage {task.shard.index}")
            result = self._stage(task)
            self._failpoint(f"staged {task.shard.index}")
            yield result

    def _stage(self, task: ShardTask) -> ShardResult:
        spec, shard, fragment = self._spec, task.shard, task.fragment
        rows = pq.read_table(spec.source_root / fragment.path).slice(shard.row_start, shard.num_rows)
        places = np.arange(shard.row_start, shard.row_stop)
        row = [_row(fragment.path, int(place)) for place in places]
        columns = {name: rows[name].cast(spec.source_schema.field(name).type) for name in spec.passthrough}
        table = pa.table(
            {**columns, "label": [f"L{i % 3}" for i in rows["id"].to_pylist()], schema.ROW: pa.array(row, schema.ROW_TYPE)}
        )
        batch = table.combine_chunks().to_batches()[0]
        attempt = uuid4().hex
        spec.layout.staging.mkdir(parents=True, exist_ok=True)
        footer = {**spec.footer, "shard_id": shard.shard_id, "attempt_id": attempt}
        with ParquetStager(lambda part: spec.layout.staged(shard.index, attempt, part), footer=footer) as stager:
            stager.write(batch)
            files = stager.close()
        return ShardResult(
            index=shard.index,
            attempt_id=attempt,
            files=files,
            num_rows=shard.num_rows,
            statuses={"ok": shard.num_rows},
            schema_sha256=schema.schema_sha256(batch.schema),
        )


def _row(source_file: str, source_row: int) -> dict[str, object]:
    return {
        "status": "ok",
        "error": None,
        "n_tokens": 3,
        "n_windows": 1,
        "truncated": False,
        "source_file": source_file,
        "source_row": source_row,
    }
