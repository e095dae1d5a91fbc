"""Layer A: the real driver on a simulated disk, thousands of random interleavings with kills, lost replies, zombies."""

from __future__ import annotations

import json
import logging
import random
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import pyarrow as pa
import pytest
from fakes import (
    KILL_AFTER,
    KILL_BEFORE,
    KILL_LATE,
    LOSE_REPLY,
    REFUSE,
    RUN,
    BrokenDisk,
    InjectedError,
    KilledError,
    SimDisk,
    SimExecutor,
    SimOwner,
    SimProcess,
)

from distilbatch.commit.records import ClaimRecord, DoneRecord, PlanRecord, ShardRecord, parse
from distilbatch.config import load_config
from distilbatch.engine.driver import Driver
from distilbatch.engine.job import Job
from distilbatch.errors import BusyError
from distilbatch.fingerprint import sha256_bytes
from distilbatch.layout import published_name
from distilbatch.records import Fragment
from distilbatch.source.listing import Listing

ROOT = Path("/sim/out")
SCHEMA = pa.schema([pa.field("text", pa.string())])
CONFIG = load_config(
    {
        "job": {"name": "nightly"},
        "source": {"path": "/sim/in"},
        "annotate": [{"name": "label", "task": "text-classification", "model": "/sim/model"}],
        "sink": {"path": str(ROOT)},
        "engine": {"shard_rows": 3},
    },
    environ={},
)
JOB = Job(CONFIG, "once", None, (), {"label": "a" * 64}, {"processing": 1})
WINDOWS = (("2026-01-01", None), ("2026-01-02", None), ("2026-01-02-limit4", 4), ("2026-01-03", None))
LAST = ("2026-01-09", None)


class Invariants:
    """Checks every change of the disk at the moment it is made."""

    def __init__(self, disk_files: dict[Path, bytes]) -> None:
        self.files = disk_files
        self.published: Counter[tuple[str, int, str, int]] = Counter()
        self.once: set[Path] = set()  # names that were given, whether or not they are gone since
        self.plans: dict[str, PlanRecord] = {}
        self.claimed: Counter[tuple[str, int, str, int]] = Counter()

    def __call__(self, change: str, path: Path, data: bytes) -> None:
        kind = path.parent.name if path.parent.name in {"claims", "shards", "epoch", "staging"} else path.name
        if change == "replace":
            assert path.suffix == ".hb" or path.name == "metrics.json", f"{path} is a record and was replaced"
            return
        if change == "remove":
            self._removed(path)
            return
        assert path not in self.once, f"I3/I4: {path} came into being twice"
        self.once.add(path)
        if change == "link":
            self._linked(path, data)
        elif kind == "claims":
            self._claimed(parse(ClaimRecord, data, where=str(path)).plan)
        elif kind == "plan.json":
            plan = parse(PlanRecord, data, where=str(path))
            assert plan == self.plans.get(plan.window), f"{path} is not the claimed plan"
        elif kind == "shards":
            record = parse(ShardRecord, data, where=str(path))
            for file in record.files:
                assert len(self._staged(path, file.name)) == file.size_bytes, f"{path} names a file that is not whole"
        elif kind == "done.json":
            self._done(path, parse(DoneRecord, data, where=str(path)))

    def _claimed(self, plan: PlanRecord) -> None:
        assert plan.window not in self.plans, f"I4: {plan.window} has two claims"
        self.plans[plan.window] = plan
        self.claimed.update(rows_of(plan))
        assert set(self.claimed.values()) <= {1}, f"a row is claimed twice: {self.claimed.most_common(1)}"

    def _linked(self, path: Path, data: bytes) -> None:
        rows = [tuple(row) for row in json.loads(data)["rows"]]
        self.published.update(rows)
        assert set(self.published.values()) <= {1}, f"I1: {path} publishes a row again"
        window = next(window for window, plan in self.plans.items() if set(rows) <= set(rows_of(plan)))
        assert JOB.sink.run(JOB.name, window).commit in self.files, f"{path} is visible before its run was decided"

    def _staged(self, record: Path, name: str) -> bytes:
        return self.files.get(record.parent.parent / "staging" / name, b"")

    def _removed(self, path: Path) -> None:
        assert path.parent.name == "staging", f"{path} was removed"
        index = int(path.name.split("-")[0])
        elected = self.files.get(path.parent.parent / "shards" / f"{index:05d}.json")
        if elected is not None:
            record = parse(ShardRecord, elected, where="")
            if path.name in {file.name for file in record.files}:
                name = published_name(index, record.shard_id, 0, 1)
                assert ROOT / "data" / name in self.files, f"I7: {path} was removed before it was published"

    def _done(self, path: Path, done: DoneRecord) -> None:
        plan = self.plans[path.parent.name]
        missing = [row for row in rows_of(plan) if row not in self.published]
        assert not missing, f"I2: {path} says done without {missing[:3]}"
        for file in done.files:
            assert sha256_bytes(self.files[ROOT / file.path]) == file.sha256, f"I3: {file.path} is another file"


def rows_of(plan: PlanRecord) -> list[tuple[str, int, str, int]]:
    return [
        (*plan.fragments[shard.fragment].identity, row)
        for shard in plan.shards
        for row in range(shard.row_start, shard.row_stop)
    ]


class Simulation:
    """One schedule: a growing source, runs of several windows, a disk, and a random scheduler.

    Args:
        seed: Decides everything.
        disk_kind: The disk.
    """

    def __init__(self, seed: int, disk_kind: type[SimDisk] = SimDisk) -> None:
        self.random = random.Random(seed)
        self.disk = disk_kind()
        self.invariants = Invariants(self.disk.files)
        self.disk.watch(self.invariants)
        self.fragments: list[Fragment] = []
        self.processes: list[SimProcess] = []
        self.owners: dict[Path, SimProcess] = {}
        self.trace: list[tuple[object, ...]] = []
        self.fault_rate = self.random.choice([0.0, 0.01, 0.03, 0.1])
        self.politeness = self.random.choice([0.0, 0.5, 1.0])
        self.windows = self.random.sample(WINDOWS, self.random.choice([1, 1, 2, 3]))
        for _ in range(self.random.randint(1, 2)):
            self.grow()

    def run(self) -> None:
        """Chaos, then calm; raises AssertionError when a guarantee is broken."""
        for window in self.windows:
            self._start_any(window)
        for _ in range(self.random.choice([5, 10, 20, 40])):
            self._act()
        self._calm()

    def start(self, window: tuple[str, int | None], *, polite: bool) -> SimProcess:
        job = replace(JOB, window=window[0], limit=window[1])
        attempts = iter(lambda: f"{self.random.getrandbits(128):032x}", "")

        def work(process, store):
            return Driver(
                job,
                store=store,
                make_executor=lambda job, spec: SimExecutor(store, spec, attempts),
                list_files=lambda job: Listing(tuple(self.fragments), SCHEMA, ()),
                make_owner=lambda store, layout: SimOwner(
                    store, layout, process=process, owners=self.owners, polite=polite
                ),
            ).run()

        name = f"{window[0]}#{len(self.trace)}"
        self.trace.append((name, "starts", "polite" if polite else "stubborn"))
        return SimProcess(name, self.disk, work, self.trace)

    def _start_any(self, window: tuple[str, int | None]) -> None:
        self.processes.append(self.start(window, polite=self.random.random() < self.politeness))

    def grow(self) -> None:
        number, rows = len(self.fragments), self.random.randint(0, 7)
        digest = sha256_bytes(b"%d" % number)
        groups = (rows,) if rows < 4 else (3, rows - 3)
        name = f"f{self.random.randint(0, 99):02d}-{number}.parquet"  # anywhere in the order of the listing
        self.fragments.append(Fragment(name, 100 + rows, digest, rows, groups, tuple(10 * g for g in groups)))
        self.fragments.sort(key=lambda fragment: fragment.path)

    def _act(self) -> None:
        dice = self.random.random()
        live = [process for process in self.processes if process.alive]
        if dice < 0.01:
            self.grow()
        elif dice < 0.03 and self.disk.late:
            self.land()
        elif not live or (dice < 0.15 and len(live) < 4):
            self._start_any(self.random.choice(self.windows))
        else:
            self._step(self.random.choice(live), self._burst(self.random.choice([1, 1, 2, 4, 15, 40])))

    def _burst(self, operations: int) -> Callable[[str, Path], str | None]:
        """Some operations in a row, often up to just before one that decides something: there the races are."""
        done = 0

        def fate(name: str, path: Path) -> str | None:
            nonlocal done
            done += 1
            if done > operations or (done > 1 and name.endswith("_new") and self.random.random() < 0.3):
                return None
            if self.random.random() < self.fault_rate:
                return self.random.choice([KILL_BEFORE, KILL_AFTER, KILL_LATE, LOSE_REPLY, REFUSE])
            return RUN

        return fate

    def _step(self, process: SimProcess, fate: Callable[[str, Path], str | None]) -> None:
        process.step(fate)
        expected = (type(None), KilledError, InjectedError, BusyError)
        if not process.alive and not isinstance(process.error, expected):
            raise process.error

    def land(self) -> None:
        late = self.disk.late.pop(self.random.randrange(len(self.disk.late)))
        self.trace.append(("a late request arrives",))
        late()

    def _calm(self) -> None:
        """Faults stop. Zombies go on at first and finish last; every window reaches its end."""
        live = [process for process in self.processes if process.alive]
        zombies = [process for process in live if self.random.random() < 0.3]
        for process in live:
            if process not in zombies:
                self._finish(process)
        for window in self.windows:
            assert self.to_the_end(window).state in {"committed", "already committed"}
        self.check(complete=False)
        self.grow()
        self.to_the_end(LAST)
        while self.disk.late:
            self.land()
        for process in zombies:
            self._finish(process)
        self.check(complete=True)

    def to_the_end(self, window: tuple[str, int | None]):
        process = self.start(window, polite=False)
        self._finish(process)
        assert process.error is None, process.error
        return process.result

    def _finish(self, process: SimProcess) -> None:
        while process.alive:
            self._step(process, lambda name, path: RUN)

    def check(self, *, complete: bool) -> None:
        data = {path: content for path, content in self.disk.files.items() if path.is_relative_to(ROOT / "data")}
        rows = Counter(tuple(row) for content in data.values() for row in json.loads(content)["rows"])
        assert rows == self.invariants.published
        assert rows == self.invariants.claimed
        if complete:
            assert rows == Counter((*f.identity, row) for f in self.fragments for row in range(f.num_rows))


def explore(seed: int, disk_kind: type[SimDisk] = SimDisk) -> Simulation:
    """Run one schedule; the message of a failure has the end of its trace."""
    simulation = Simulation(seed, disk_kind)
    try:
        simulation.run()
    except Exception as error:
        tail = "\n".join(" ".join(map(str, event)) for event in simulation.trace[-60:])
        raise AssertionError(f"{error}\nreplay with explore({seed}), whose end is:\n{tail}") from error
    return simulation


@pytest.fixture(autouse=True)
def quiet():
    logger = logging.getLogger("distilbatch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def up_to(name: str) -> Callable[[str, Path], str | None]:
    """Run up to just before an operation on a file of this name."""
    return lambda operation, path: None if path.name == name and operation.endswith("_new") else RUN


def run_on(operation: str, path: Path) -> str:
    return RUN


@pytest.fixture
def two_files() -> Simulation:
    """Two files of 5 and 4 rows: four shards. Nothing has run yet."""
    simulation = Simulation(0)
    simulation.fragments[:] = [
        Fragment(f"f{n}.parquet", 100 + n, sha256_bytes(b"%d" % n), rows, (rows,), (10 * rows,))
        for n, rows in enumerate((5, 4))
    ]
    return simulation


@pytest.mark.parametrize("block", range(5))
def test_no_schedule_breaks_a_guarantee(block):
    for seed in range(block * 120, block * 120 + 120):
        explore(seed)


def test_no_fresh_schedule_breaks_a_guarantee():
    first = secrets.randbits(40)  # the message of a failure has the seed
    for seed in range(first, first + 150):
        explore(seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_schedule_of_a_night_breaks_a_guarantee():
    first = secrets.randbits(40)
    for seed in range(first, first + 30_000):
        explore(seed)


def test_a_store_that_ignores_put_if_absent_is_found_out():
    broken = 0
    for seed in range(40):
        try:
            explore(seed, BrokenDisk)
        except AssertionError:
            broken += 1
    assert broken > 20


@pytest.mark.parametrize("fate", [KILL_BEFORE, KILL_AFTER, KILL_LATE, LOSE_REPLY, REFUSE])
def test_one_fault_at_any_operation(fate):
    number, reached = 0, True
    while reached:
        simulation = Simulation(1)
        process = simulation.start(WINDOWS[0], polite=True)
        fates = chain(repeat(RUN, number), [fate], repeat(RUN))
        process.step(lambda name, path, fates=fates: next(fates))
        assert not process.alive
        reached = process.error is not None
        assert not reached or isinstance(process.error, (KilledError, InjectedError)), process.error
        late = simulation.disk.late[:]
        simulation.disk.late.clear()
        if number % 2:  # a late request arrives before the recovery, or after it
            simulation.disk.late.extend(late)
            while simulation.disk.late:
                simulation.land()
        simulation.to_the_end(WINDOWS[0])
        simulation.disk.late.extend(late if not number % 2 else [])
        simulation.to_the_end(LAST)
        while simulation.disk.late:
            simulation.land()
        simulation.check(complete=True)
        number += 1
    assert number > 40


def test_a_finaliser_that_is_overtaken_ends_well(two_files):
    """It is about to link a staged file that another one has linked, and removed, meanwhile."""
    slow = two_files.start(WINDOWS[0], polite=False)
    slow.step(up_to("done.json"))
    links = [path for path in two_files.disk.files if path.is_relative_to(ROOT / "data")]
    assert len(links) == 4
    again = Simulation(0)
    again.fragments[:] = two_files.fragments
    for link in links:
        slow = again.start(WINDOWS[0], polite=False)
        slow.step(lambda name, path, link=link: None if (name, path) == ("link_new", link) else RUN)
        again.to_the_end(WINDOWS[0])
        slow.step(run_on)
        assert slow.error is None
        again.check(complete=True)
        again = Simulation(0)
        again.fragments[:] = two_files.fragments


def test_a_file_that_came_after_a_run_listed_the_source_does_not_stop_it(two_files):
    """It has listed, a file comes, and another process plans its window with that file, and dies."""
    slow = two_files.start(WINDOWS[0], polite=True)
    slow.step(up_to("000001.json"))
    two_files.grow()
    other = two_files.start(WINDOWS[0], polite=True)
    other.step(lambda name, path: KILL_AFTER if (name, path.name) == ("put_new", "000001.json") else RUN)
    slow.step(run_on)
    assert slow.error is None
    assert two_files.invariants.plans[WINDOWS[0][0]].num_rows == sum(f.num_rows for f in two_files.fragments) > 9
    two_files.check(complete=True)


def test_a_loser_removes_what_it_staged(two_files):
    slow = two_files.start(WINDOWS[0], polite=False)
    slow.step(up_to("00000.json"))
    staged = {path for path in two_files.disk.files if path.parent.name == "staging"}
    faster = two_files.start(WINDOWS[0], polite=False)
    faster.step(up_to("00001.json"))
    slow.step(up_to("00001.json"))
    assert len(staged) == 1
    assert not staged & set(two_files.disk.files)
    for process in (slow, faster):
        process.step(run_on)
        assert process.error is None
    two_files.check(complete=True)


@pytest.mark.parametrize("shard", range(4))
def test_a_zombie_loses_its_shard_and_leaves_nothing(two_files, shard):
    zombie = two_files.start(WINDOWS[0], polite=False)
    zombie.step(up_to(f"{shard:05d}.json"))
    two_files.to_the_end(WINDOWS[0])
    published = {path: data for path, data in two_files.disk.files.items() if path.is_relative_to(ROOT / "data")}
    zombie.step(run_on)
    assert zombie.error is None
    assert [path for path in two_files.disk.files if path.parent.name == "staging"] == []
    assert {path: two_files.disk.files[path] for path in published} == published
    two_files.check(complete=True)


def test_windows_that_are_about_to_claim_the_same_rows_share_them(two_files):
    everybody = [two_files.start(window, polite=True) for window in WINDOWS]
    for process in everybody:
        process.step(up_to("000001.json"))
    for process in everybody:
        process.step(run_on)
    assert [process.error for process in everybody] == [None] * 4
    assert [plan.num_rows for plan in two_files.invariants.plans.values()] == [9, 0, 0, 0]
    two_files.check(complete=True)


def test_a_sample_and_a_full_run_that_race_share_the_rows(two_files):
    full, sample = two_files.start(WINDOWS[0], polite=True), two_files.start(WINDOWS[2], polite=True)
    for process in (full, sample):
        process.step(up_to("000001.json"))
    sample.step(run_on)
    full.step(run_on)
    assert (sample.error, full.error) == (None, None)
    assert {plan.window: plan.num_rows for plan in two_files.invariants.plans.values()} == {
        WINDOWS[2][0]: 4,
        WINDOWS[0][0]: 5,
    }
    two_files.check(complete=True)


def test_a_polite_run_stops_when_another_one_has_taken_over(two_files):
    slow = two_files.start(WINDOWS[0], polite=True)
    slow.step(up_to("00001.json"))
    two_files.to_the_end(WINDOWS[0])
    slow.step(run_on)
    assert isinstance(slow.error, BusyError)
    assert str(slow.error) == "nightly/2026-01-01: another run took over; let it finish; what was committed here counts"
    two_files.check(complete=True)
