"""Stand-ins for the tests of the commit protocol: tiny jobs, an executor without a model, a simulated file system."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distilbatch import schema
from distilbatch.commit.records import OwnerRecord
from distilbatch.commit.store import Store
from distilbatch.engine.driver import Driver, resolve_run
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
        (self.model / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ntext\n")

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
        query = "SELECT _row.source_file, _row.source_row FROM read_parquet(?, union_by_name=true)"
        rows = connection.execute(query, [f"{data}/**/*.parquet"]).fetchall()
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
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        log: Path | None = None,
        failpoint: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._spec = spec
        self._log = log
        self._failpoint = failpoint

    def run(self, tasks: Sequence[ShardTask], *, stop: threading.Event) -> Iterator[Outcome]:
        for task in tasks:
            if stop.is_set():
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
        with pq.ParquetFile(spec.source_root / fragment.path) as file:
            rows = file.read().slice(shard.row_start, shard.num_rows)
        places = np.arange(shard.row_start, shard.row_stop)
        row = [_row(fragment.path, int(place)) for place in places]
        columns = {name: rows[name].cast(spec.source_schema.field(name).type) for name in spec.passthrough}
        labels = [f"L{i % 3}" for i in rows["id"].to_pylist()]
        table = pa.table({**columns, "label": labels, schema.ROW: pa.array(row, schema.ROW_TYPE)})
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


# --- A simulated file system, whose users can be stepped, killed and left behind -------------------------------------

RUN = "run"
REFUSE = "refuse"  # an error, and nothing happened
LOSE_REPLY = "lose the reply"  # an error, although it happened
KILL_BEFORE = "kill before"
KILL_AFTER = "kill after"
KILL_LATE = "kill, and let the request arrive later"


class KilledError(BaseException):
    """The simulated process is gone; nothing may catch this and go on."""


class InjectedError(SetupError):
    """What the simulated file system refuses because the schedule says so."""


class SimDisk:
    """Files by path. A link shares its content; content is never changed in place."""

    def __init__(self) -> None:
        self.files: dict[Path, bytes] = {}
        self.late: list[Callable[[], object]] = []  # requests of dead processes that are still on their way
        self._watch: Callable[[str, Path, bytes], None] = lambda change, path, data: None

    def watch(self, watch: Callable[[str, Path, bytes], None]) -> None:
        """Call ``watch`` after every change with what was done, the path and the content."""
        self._watch = watch

    def create(self, path: Path, data: bytes) -> bool:
        if path in self.files:
            return False
        self.files[path] = data
        self._watch("create", path, data)
        return True

    def link(self, staged: Path, final: Path) -> bool:
        if final in self.files:
            # The same object is the same file, as after a link whose reply was lost.
            return self.files.get(staged) is self.files[final]
        if staged not in self.files:
            raise SetupError(f"cannot write {final}", found="No such file or directory")
        self.files[final] = self.files[staged]
        self._watch("link", final, self.files[final])
        return True

    def replace(self, path: Path, data: bytes) -> None:
        self.files[path] = data
        self._watch("replace", path, data)

    def remove(self, path: Path) -> None:
        data = self.files.pop(path, None)
        if data is not None:
            self._watch("remove", path, data)

    def names(self, folder: Path) -> list[str]:
        prefix = f"{folder}/"
        names = [str(path)[len(prefix) :] for path in self.files if str(path).startswith(prefix)]
        return sorted(name for name in names if "/" not in name)


class BrokenDisk(SimDisk):
    """A disk that ignores put-if-absent, like an object store that ignores ``If-None-Match``."""

    def create(self, path: Path, data: bytes) -> bool:
        self.files[path] = data
        self._watch("create", path, data)
        return True


class SimStore(Store):
    """What one simulated process sees of a disk; every operation first passes a gate.

    Args:
        disk: The disk.
        gate: Called before each operation with its name and path; returns what becomes of it.
    """

    def __init__(self, disk: SimDisk, gate: Callable[[str, Path], str] = lambda name, path: RUN) -> None:
        self._disk = disk
        self._gate = gate

    def put_new(self, path: Path, data: bytes) -> bool:
        return self._do("put_new", path, lambda: self._disk.create(path, data))

    def link_new(self, staged: Path, final: Path) -> bool:
        return self._do("link_new", final, lambda: self._disk.link(staged, final))

    def read(self, path: Path, *, max_bytes: int) -> bytes | None:
        return self._do("read", path, lambda: self._disk.files.get(path))

    def names(self, folder: Path) -> list[str]:
        return self._do("names", folder, lambda: self._disk.names(folder))

    def size(self, path: Path) -> int | None:
        return self._do("size", path, lambda: None if (data := self._disk.files.get(path)) is None else len(data))

    def digest(self, path: Path) -> str | None:
        return self._do(
            "digest", path, lambda: None if (data := self._disk.files.get(path)) is None else sha256_bytes(data)
        )

    def replace(self, path: Path, data: bytes) -> None:
        self._do("replace", path, lambda: self._disk.replace(path, data))

    def remove(self, path: Path) -> None:
        self._do("remove", path, lambda: self._disk.remove(path))

    def _do(self, name: str, path: Path, effect: Callable[[], object]):
        fate = self._gate(name, path)
        if fate == KILL_LATE:
            self._disk.late.append(effect)
        if fate in (KILL_BEFORE, KILL_LATE):
            raise KilledError
        if fate == REFUSE:
            raise InjectedError(f"cannot {name} {path}", found="injected")
        result = effect()
        if fate == KILL_AFTER:
            raise KilledError
        if fate == LOSE_REPLY:
            raise InjectedError(f"cannot {name} {path}", found="injected, after it happened")
        return result


class SimProcess:
    """Work on a store that stops before each of its operations until it is stepped; one runs at a time.

    Args:
        name: For traces.
        disk: Its disk.
        work: What it does, given itself and its store.
        trace: Gets what it does: its name, the operation, the path and what became of it.
    """

    def __init__(
        self, name: str, disk: SimDisk, work: Callable[[SimProcess, Store], object], trace: list[tuple[object, ...]]
    ) -> None:
        self.name = name
        self.alive = True
        self.result: object = None
        self.error: BaseException | None = None
        self._trace = trace
        self._work = work
        self._store = SimStore(disk, self._gate)
        self._fate: Callable[[str, Path], str | None] = lambda name, path: None
        self._dead = False
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self._back.acquire()

    def step(self, fate: Callable[[str, Path], str | None]) -> None:
        """Let operations happen, or not, as ``fate`` says of each, up to the one it says None of."""
        self._fate = fate
        self._go.release()
        self._back.acquire()
        if not self.alive:
            self._thread.join()

    def _main(self) -> None:
        try:
            self.result = self._work(self, self._store)
        except BaseException as error:
            self.error = error
        self._trace.append((self.name, "ends", self.error or "well"))
        self.alive = False
        self._back.release()

    def _gate(self, name: str, path: Path) -> str:
        if self._dead:
            raise KilledError  # what ``finally`` blocks do in a process that no longer exists
        while (fate := self._fate(name, path)) is None:
            self._back.release()
            self._go.acquire()
        self._dead = fate.startswith("kill")
        self._trace.append((self.name, name, path, "" if fate == RUN else fate))
        return fate


class SimExecutor(Executor):
    """Stages a list of rows in place of a Parquet file.

    Args:
        store: The store of the process.
        spec: What a worker would get.
        attempts: Gives attempt ids.
    """

    def __init__(self, store: Store, spec: WorkerSpec, attempts: Iterator[str]) -> None:
        self._store = store
        self._spec = spec
        self._attempts = attempts

    def run(self, tasks: Sequence[ShardTask], *, stop: threading.Event) -> Iterator[Outcome]:
        for task in tasks:
            shard, attempt = task.shard, next(self._attempts)
            path = self._spec.layout.staged(shard.index, attempt, 0)
            rows = [[*task.fragment.identity, row] for row in range(shard.row_start, shard.row_stop)]
            data = json.dumps({"attempt": attempt, "rows": rows}).encode()
            self._store.put_new(path, data)
            yield ShardResult(
                index=shard.index,
                attempt_id=attempt,
                files=(StagedFile(path.name, (), len(rows), len(data), sha256_bytes(data)),),
                num_rows=len(rows),
                statuses={"ok": len(rows)},
                schema_sha256=sha256_bytes(b"schema"),
            )


class SimOwner:
    """Ownership without a clock: a polite one gives way to a live owner, another takes over and never looks back.

    Args:
        store: The store of the process.
        layout: The run key's paths.
        process: Who takes the ownership.
        owners: Who took which epoch; shared by all processes.
        polite: Whether to give way.
    """

    def __init__(
        self, store: Store, layout: RunLayout, *, process: SimProcess, owners: dict[Path, SimProcess], polite: bool
    ) -> None:
        self._store, self._layout, self._process, self._owners = store, layout, process, owners
        self._polite = polite
        self.epoch = 0
        self.run_id = process.name

    def take(self) -> int:
        names = [name for name in self._store.names(self._layout.epochs) if name.endswith(".json")]
        latest = int(names[-1][:-5]) if names else 0
        if latest and self._polite and self._owners[self._layout.epoch(latest)].alive:
            raise BusyError(f"{self._layout.window} is taken")
        self.epoch = latest + 1
        path = self._layout.epoch(self.epoch)
        record = OwnerRecord(epoch=self.epoch, host="sim", pid=1, process="1", run_id=self.run_id)
        self._owners.setdefault(path, self._process)
        if not self._store.put_new(path, record.to_bytes()):
            raise BusyError(f"{self._layout.window} was taken meanwhile")
        self._owners[path] = self._process
        return self.epoch

    def superseded(self) -> bool:
        return self._polite and self._store.size(self._layout.epoch(self.epoch + 1)) is not None

    def release(self) -> None:
        self._store.replace(self._layout.heartbeat(self.epoch), b"released\n")
