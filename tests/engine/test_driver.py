"""What a run promises: resume, refuse, take over, and let windows share a growing source, each row exactly once."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import FakeExecutor, KilledError, Workspace, files_below

from distilbatch.commit.claims import ClaimChain
from distilbatch.commit.ownership import Ownership
from distilbatch.commit.records import OwnerRecord
from distilbatch.commit.store import LocalStore
from distilbatch.engine.driver import Progress, resolve_run
from distilbatch.engine.planning import build_plan, list_source
from distilbatch.engine.spec import PoolEvent, ShardFailure
from distilbatch.errors import BusyError, ConflictError, DataError, InterruptedRunError, ResourceError, SetupError
from distilbatch.source.listing import BadFile, Listing

STORE = LocalStore()
NIGHTS = ("2026-01-01", "2026-01-02", "2026-01-03")


def die_at(name: str):
    """An executor whose process dies before (``stage 1``) or after (``staged 1``) a shard."""

    def failpoint(reached: str) -> None:
        if reached == name:
            raise KilledError

    return lambda job, spec: FakeExecutor(spec, failpoint=failpoint)


def crash(workspace: Workspace, day: str | None = None, *, at: str = "stage 2", limit: int | None = None) -> None:
    """A run that dies; the staged files of a shard that was not recorded stay behind."""
    with pytest.raises(KilledError):
        workspace.driver(workspace.job(day, limit=limit), make_executor=die_at(at)).run()


def never(job, spec):
    raise AssertionError("nothing was to be computed")


class DyingStore(LocalStore):
    """Dies at an operation.

    Args:
        operation: Its name.
        name: Name of the file it concerns; None for any.
    """

    def __init__(self, operation: str, name: str | None = None) -> None:
        self._operation, self._name = operation, name

    def _check(self, operation: str, path: Path) -> None:
        if operation == self._operation and self._name in (None, path.name):
            raise KilledError

    def put_new(self, path, data):
        self._check("put_new", path)
        return super().put_new(path, data)

    def link_new(self, staged, final):
        self._check("link_new", final)
        return super().link_new(staged, final)

    def replace(self, path, data):
        self._check("replace", path)
        super().replace(path, data)


class Scripted(FakeExecutor):
    """Reports something else for some shards.

    Args:
        spec: What a worker would get.
        outcomes: By shard.
    """

    def __init__(self, spec, outcomes) -> None:
        super().__init__(spec)
        self._outcomes = outcomes
        self.seen: list[int] = []

    def run(self, tasks, *, stop):
        for task in tasks:
            self.seen.append(task.shard.index)
            if task.shard.index in self._outcomes:
                yield self._outcomes[task.shard.index]
            else:
                yield from super().run([task], stop=stop)


# --- One window ------------------------------------------------------------------------------------------------------


def test_every_row_is_published_once_and_the_report_says_so(workspace):
    report = workspace.run()
    assert workspace.places() == workspace.source_places()
    assert (report.run_key, report.state, report.num_rows, report.num_files) == ("nightly/once", "committed", 12, 4)
    assert (report.statuses, report.rows_this_attempt, report.earlier) == ({"ok": 12}, 12, ())
    assert json.loads(workspace.layout().metrics.read_text())["num_rows"] == 12
    assert report.data == str(workspace.sink / "data")
    assert files_below(workspace.layout().staging) == []


def test_a_second_run_computes_and_changes_nothing(workspace):
    workspace.run()
    before = {name: (workspace.sink / name).stat().st_mtime_ns for name in files_below(workspace.sink)}
    report = workspace.driver(workspace.job(), make_executor=never).run()
    assert (report.state, report.num_rows, report.rows_this_attempt) == ("already committed", 12, 0)
    assert {name: (workspace.sink / name).stat().st_mtime_ns for name in files_below(workspace.sink)} == before


def test_a_second_run_needs_neither_the_source_nor_its_files(workspace):
    workspace.run()
    shutil.rmtree(workspace.source)
    assert workspace.run().state == "already committed"


@pytest.mark.parametrize(("at", "left"), [("stage 0", 12), ("staged 1", 9), ("stage 2", 5), ("staged 3", 3)])
def test_a_resumed_run_computes_what_was_not_recorded(workspace, at, left):
    crash(workspace, at=at)
    assert workspace.places() == Counter()
    report = workspace.run()
    assert (report.num_rows, report.rows_this_attempt) == (12, left)
    assert workspace.places() == workspace.source_places()


def test_progress_is_told_what_was_recorded_before_and_what_is_new(workspace):
    crash(workspace, at="stage 2")
    told = []

    class Told(Progress):
        def planned(self, plan, recorded):
            told.append(("planned", len(plan.shards), recorded))

        def shard_committed(self, result):
            told.append(("committed", result.index))

        def event(self, event):
            told.append(("event", event.kind))

    event = PoolEvent("started", "a worker started")
    with pytest.raises(DataError, match="shard 3 is not committed"):
        workspace.driver(
            workspace.job(), progress=Told(), make_executor=lambda job, spec: Scripted(spec, {3: event})
        ).run()
    assert told == [("planned", 4, 2), ("committed", 2), ("event", "started")]


def test_a_stop_leaves_a_resumable_run_and_says_how_much_is_left(workspace):
    stop = threading.Event()

    class StopAfterFirst(Progress):
        def shard_committed(self, result):
            stop.set()

    with pytest.raises(InterruptedRunError, match="nightly/once was stopped; found 3 of 4 shards left; run the same"):
        workspace.driver(workspace.job(), progress=StopAfterFirst(), stop=stop).run()
    assert workspace.places() == Counter()
    assert workspace.run().rows_this_attempt == 9


def test_shards_that_fail_on_data_are_all_named_and_the_others_are_kept(workspace):
    outcomes = {1: ShardFailure(1, DataError("page broken")), 3: ShardFailure(3, DataError("page gone"))}
    with pytest.raises(DataError) as caught:
        workspace.driver(workspace.job(), make_executor=lambda job, spec: Scripted(spec, outcomes)).run()
    assert str(caught.value) == (
        "nightly/once: 2 shards failed, nothing was published\nshard 1: page broken\nshard 3: page gone; "
        "mend the source and run the same command again, or set source.on_bad_file: quarantine"
    )
    assert workspace.places() == Counter()
    assert workspace.run().rows_this_attempt == 7


@pytest.mark.parametrize("kind", [ConflictError, ResourceError, SetupError])
def test_a_failure_that_concerns_every_shard_stops_the_run_at_once(workspace, kind):
    executors = []

    def make(job, spec):
        executors.append(Scripted(spec, {1: ShardFailure(1, kind("no way"))}))
        return executors[0]

    with pytest.raises(kind, match="no way"):
        workspace.driver(workspace.job(), make_executor=make).run()
    assert executors[0].seen == [0, 1]
    assert workspace.run().rows_this_attempt == 9


def test_shards_with_different_columns_are_not_published(workspace):
    class Odd(FakeExecutor):
        def run(self, tasks, *, stop):
            for result in super().run(tasks, stop=stop):
                digest = "0" * 64 if result.index == 2 else result.schema_sha256
                yield type(result)(**{**{f: getattr(result, f) for f in result.__slots__}, "schema_sha256": digest})

    with pytest.raises(DataError, match="shards 0 and 2 have different output columns; expected one schema"):
        workspace.driver(workspace.job(), make_executor=lambda job, spec: Odd(spec)).run()
    assert workspace.places() == Counter()


# --- What may change between a run and its resumption ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["annotate.0.max_length=9"], "annotate.0.max_length: planned None, now 9"),
        (["annotate.0.top_k=2"], "annotate.0.top_k: planned None, now 2"),
        (["sink.passthrough=[]"], r"passthrough: planned \['id'\], now \[\]"),
        (["source.max_doc_bytes=2048"], "max_doc_bytes: planned 1048576, now 2048"),
        (["engine.precision=float32"], "precision: planned 'auto', now 'float32'"),
    ],
)
def test_a_resume_with_another_meaning_is_refused(workspace, overrides, named):
    crash(workspace)
    with pytest.raises(ConflictError, match=f"nightly/once was planned with other settings; .*found {named}; restore"):
        workspace.run(overrides=overrides)
    assert workspace.run().num_rows == 12


def test_a_resume_with_another_model_is_refused(workspace):
    crash(workspace)
    workspace.write_model("second")
    with pytest.raises(ConflictError, match=r"found model of 'label': planned [0-9a-f]{12}, now [0-9a-f]{12}; restore"):
        workspace.run()
    workspace.write_model("first")
    assert workspace.run().num_rows == 12


def test_another_model_is_refused_after_the_end_as_well(workspace):
    workspace.run()
    workspace.write_model("second")
    with pytest.raises(ConflictError, match="model of 'label'"):
        workspace.run()


def test_a_night_that_is_blocked_stops_no_later_one_and_is_named(workspace):
    crash(workspace, NIGHTS[0])
    workspace.write_model("second")
    workspace.write_file("c.parquet", 3, start=50)
    for state in ("committed", "already committed"):
        with pytest.raises(ConflictError) as caught:
            workspace.run(NIGHTS[1])
        assert str(caught.value).startswith(
            f"nightly/{NIGHTS[1]} is {state}, but the earlier nightly/{NIGHTS[0]} cannot be finished: "
            f"nightly/{NIGHTS[0]} was planned with other settings; expected the model and settings of the plan; found "
        )
    assert workspace.places() == {("c.parquet", row): 1 for row in range(3)}
    workspace.write_model("first")
    assert workspace.run(NIGHTS[0]).rows_this_attempt == 5
    assert workspace.places() == workspace.source_places()


def test_a_file_that_was_replaced_blocks_its_own_night_only(workspace):
    crash(workspace, NIGHTS[0], at="stage 1")
    workspace.write_file("sub/b.parquet", 6, start=700)
    for night, more in zip(NIGHTS[1:], ("c", "d"), strict=True):
        workspace.write_file(f"{more}.parquet", 3, start=50)
        with pytest.raises(ConflictError, match=rf"nightly/{night} is committed, but .*sub/b\.parquet \(changed\)"):
            workspace.run(night)
    expected = {path: rows for path, rows in workspace.source_places().items() if path[0] != "a.parquet"}
    assert workspace.places() == expected


def test_several_blocked_nights_are_all_named(workspace):
    crash(workspace, NIGHTS[0], at="stage 0")
    (workspace.source / "a.parquet").unlink()
    workspace.write_file("c.parquet", 3, start=50)
    with pytest.raises(KilledError):
        workspace.driver(workspace.job(NIGHTS[1]), make_executor=die_at("stage 0")).run()
    (workspace.source / "c.parquet").unlink()
    workspace.write_file("d.parquet", 2, start=60)
    with pytest.raises(ConflictError, match=f"earlier nightly/{NIGHTS[0]} .*{NIGHTS[1]} is blocked too: .*c.parq"):
        workspace.run(NIGHTS[2])
    assert workspace.places() == {("d.parquet", row): 1 for row in range(2)}


def test_a_planned_file_that_cannot_be_read_just_now_is_not_said_to_be_gone(workspace):
    crash(workspace, at="stage 1")
    overrides = ["source.on_bad_file=quarantine"]

    def listing(job):
        found = list_source(job)
        bad = BadFile("a.parquet", "Input/output error")
        return Listing(tuple(f for f in found.fragments if f.path != "a.parquet"), found.schema, (bad,))

    with pytest.raises(DataError, match=r"nightly/once: planned files cannot be read; found a\.parquet \(Input/output"):
        workspace.driver(workspace.job(overrides=overrides), list_files=listing).run()
    assert workspace.run(overrides=overrides).num_rows == 12


def test_a_resume_may_use_other_means(workspace):
    crash(workspace)
    means = ["engine.actors=3", "engine.max_batch_tokens=64", "engine.sort_buffer_rows=2", "engine.threads=1"]
    report = workspace.run(overrides=[*means, "engine.shard_rows=1", "sink.compression=none"])
    assert report.num_files == 4  # the plan stands
    assert workspace.places() == workspace.source_places()


def test_a_resume_after_a_source_file_changed_or_went_names_it(workspace):
    crash(workspace, at="stage 1")
    workspace.write_file("a.parquet", 7, start=500)
    (workspace.source / "sub" / "b.parquet").unlink()
    expected = (
        r"nightly/once: the source is not what was planned; expected the files as they were at planning time; "
        r"found a\.parquet \(changed\), sub/b\.parquet \(gone\); restore them"
    )
    with pytest.raises(ConflictError, match=expected):
        workspace.run()
    assert workspace.places() == Counter()
    workspace.write_file("a.parquet", 7)
    workspace.write_file("sub/b.parquet", 5, start=7)
    assert workspace.run().num_rows == 12


def test_a_file_whose_rows_are_all_recorded_is_not_needed_any_more(workspace):
    crash(workspace, at="stage 2")
    (workspace.source / "a.parquet").unlink()
    assert workspace.run().rows_this_attempt == 5
    assert sum(workspace.places().values()) == 12


def test_files_that_come_meanwhile_wait_for_the_next_window(workspace):
    crash(workspace)
    workspace.write_file("c.parquet", 3, start=50)
    assert workspace.run().num_rows == 12
    assert workspace.run(NIGHTS[0]).num_rows == 3
    assert workspace.places() == workspace.source_places()


def test_a_file_with_wider_types_does_not_change_the_columns_of_a_planned_run(workspace):
    crash(workspace, NIGHTS[0])
    workspace.write_file("c.parquet", 3, start=50, id_type=pa.int64())
    report = workspace.run(NIGHTS[1])
    assert [earlier.num_rows for earlier in report.earlier] == [12]
    assert workspace.places() == workspace.source_places()
    types = Counter(pq.read_schema(path).field("id").type for path in (workspace.sink / "data").rglob("*.parquet"))
    assert types == {pa.int32(): 4, pa.int64(): 1}


def test_a_decided_run_is_published_without_its_source(workspace):
    with pytest.raises(KilledError):
        workspace.driver(workspace.job(), store=DyingStore("link_new")).run()
    expected = workspace.source_places()
    shutil.rmtree(workspace.source)
    assert workspace.driver(workspace.job(), make_executor=never).run().state == "committed"
    assert workspace.places() == expected


def test_a_claim_without_a_plan_needs_no_second_listing(workspace):
    with pytest.raises(KilledError):
        workspace.driver(workspace.job(), store=DyingStore("put_new", "plan.json")).run()
    workspace.write_file("c.parquet", 3, start=50)
    assert workspace.run().num_rows == 12


def test_figures_that_a_crash_prevented_are_made_up_for(workspace):
    with pytest.raises(KilledError):
        workspace.driver(workspace.job(), store=DyingStore("replace", "metrics.json")).run()
    assert not workspace.layout().metrics.exists()
    assert workspace.run().state == "already committed"
    assert json.loads(workspace.layout().metrics.read_text())["statuses"] == {"ok": 12}
    assert files_below(workspace.layout().staging) == []


# --- Windows share a source ------------------------------------------------------------------------------------------


def test_each_night_labels_what_is_new(workspace):
    assert workspace.run(NIGHTS[0]).num_rows == 12
    workspace.write_file("c.parquet", 3, start=50)
    assert workspace.run(NIGHTS[1]).num_rows == 3
    assert workspace.places() == workspace.source_places()
    assert workspace.run(NIGHTS[0]).state == "already committed"


def test_a_file_that_was_rewritten_is_new(workspace):
    workspace.run(NIGHTS[0])
    workspace.write_file("a.parquet", 9)
    assert workspace.run(NIGHTS[1]).num_rows == 9
    counts = workspace.places()
    assert {row: counts["a.parquet", row] for row in range(9)} == {**dict.fromkeys(range(7), 2), 7: 1, 8: 1}
    assert {counts["sub/b.parquet", row] for row in range(5)} == {1}


def test_a_file_that_was_only_touched_is_not_new(workspace):
    workspace.run(NIGHTS[0])
    os.utime(workspace.source / "a.parquet", (0, 0))
    assert workspace.run(NIGHTS[1]).num_rows == 0


def test_a_window_without_new_rows_commits_an_empty_run(workspace):
    workspace.run(NIGHTS[0])
    report = workspace.driver(workspace.job(NIGHTS[1]), make_executor=never).run()
    assert (report.state, report.num_rows, report.num_files) == ("committed", 0, 0)
    assert workspace.layout(NIGHTS[1]).done.exists()
    assert workspace.run(NIGHTS[1]).state == "already committed"


def test_an_unfinished_night_is_finished_first(workspace):
    crash(workspace, NIGHTS[0])
    workspace.write_file("c.parquet", 3, start=50)
    report = workspace.run(NIGHTS[1])
    assert (report.run_key, report.num_rows) == (f"nightly/{NIGHTS[1]}", 3)
    assert [(item.run_key, item.num_rows, item.rows_this_attempt) for item in report.earlier] == [
        (f"nightly/{NIGHTS[0]}", 12, 5)
    ]
    assert workspace.places() == workspace.source_places()


def test_nights_that_only_got_as_far_as_their_claim_are_finished_in_order(workspace):
    for night in (NIGHTS[2], NIGHTS[0]):
        job = workspace.job(night)
        ClaimChain(STORE, job.sink, job.name).claim(lambda earlier, job=job: build_plan(job, list_source(job), earlier))
        workspace.write_file(f"{night}.parquet", 2, start=50)
    report = workspace.run(NIGHTS[1])
    assert [(item.run_key, item.num_rows) for item in report.earlier] == [
        (f"nightly/{NIGHTS[2]}", 12),
        (f"nightly/{NIGHTS[0]}", 2),
    ]
    assert report.num_rows == 2
    assert workspace.places() == workspace.source_places()


def test_an_unfinished_night_that_another_process_works_on_is_left_to_it(workspace):
    crash(workspace, NIGHTS[0])
    owner = Ownership(STORE, workspace.layout(NIGHTS[0]))
    owner.take()
    workspace.write_file("c.parquet", 3, start=50)
    report = workspace.run(NIGHTS[1])
    assert (report.num_rows, report.earlier) == (3, ())
    owner.release()
    assert workspace.run(NIGHTS[0]).num_rows == 12
    assert workspace.places() == workspace.source_places()


def test_nights_may_run_out_of_order(workspace):
    assert workspace.run(NIGHTS[2]).num_rows == 12
    workspace.write_file("c.parquet", 3, start=50)
    assert workspace.run(NIGHTS[0]).num_rows == 3
    assert workspace.run(NIGHTS[1]).num_rows == 0
    assert workspace.places() == workspace.source_places()


def test_a_night_does_not_finish_later_claims_when_it_is_itself_resumed(workspace):
    crash(workspace, NIGHTS[0])
    owner = Ownership(STORE, workspace.layout(NIGHTS[0]))
    owner.take()
    workspace.write_file("c.parquet", 3, start=50)
    crash(workspace, NIGHTS[1], at="stage 0")
    owner.release()
    report = workspace.run(NIGHTS[0])
    assert (report.num_rows, report.earlier) == (12, ())
    assert workspace.run(NIGHTS[1]).num_rows == 3
    assert workspace.places() == workspace.source_places()


def test_a_sample_and_then_the_rest(workspace):
    assert workspace.run(limit=5).num_rows == 5
    assert workspace.run(limit=5).state == "already committed"
    assert workspace.run(limit=3).num_rows == 3
    assert sum(workspace.places().values()) == 8
    assert workspace.run().num_rows == 4
    assert workspace.places() == workspace.source_places()


def test_a_sample_that_died_is_finished_by_the_full_run(workspace):
    crash(workspace, at="stage 1", limit=5)
    report = workspace.run()
    assert [(item.run_key, item.num_rows) for item in report.earlier] == [("nightly/once-limit5", 5)]
    assert report.num_rows == 7
    assert workspace.places() == workspace.source_places()


def test_a_limit_beyond_the_end_takes_everything(workspace):
    assert workspace.run(limit=100).num_rows == 12
    assert workspace.run().num_rows == 0


def test_jobs_on_one_sink_do_not_count_each_others_rows(workspace):
    assert workspace.run().num_rows == 12
    assert workspace.run(overrides=["job.name=evening"]).num_rows == 12
    assert set(workspace.places().values()) == {2}


def test_a_night_whose_source_is_a_dated_folder_is_finished_from_its_own_folder(workspace):
    for number, night in enumerate(NIGHTS[:2]):
        workspace.write_file(f"{night}/part.parquet", 4, start=100 * number)
    config = workspace.config()
    config["source"] = {"path": f"{workspace.source}/{{{{ date }}}}"}
    with pytest.raises(KilledError):
        workspace.driver(resolve_run(config, day=NIGHTS[0]), make_executor=die_at("stage 0")).run()
    report = workspace.driver(resolve_run(config, day=NIGHTS[1])).run()
    assert (report.num_rows, [item.num_rows for item in report.earlier]) == (4, [4])
    assert workspace.places() == {("part.parquet", row): 2 for row in range(4)}


def test_a_source_that_moved_is_read_where_it_is_now(workspace):
    crash(workspace, NIGHTS[0])
    workspace.source = workspace.source.rename(workspace.root / "moved")
    report = workspace.run(NIGHTS[1])
    assert (report.num_rows, [item.num_rows for item in report.earlier]) == (0, [12])
    assert workspace.places() == workspace.source_places()


# --- Owners ----------------------------------------------------------------------------------------------------------


def owned_elsewhere(workspace: Workspace) -> None:
    record = OwnerRecord(epoch=1, host="other|boot|pid:[1]", pid=1, process="5", run_id="theirs")
    STORE.put_new(workspace.layout().epoch(1), record.to_bytes())


def test_a_run_that_is_under_way_is_not_started_twice(workspace):
    entered, leave = threading.Event(), threading.Event()

    def wait(name: str) -> None:
        entered.set()
        leave.wait(30)

    slow = workspace.driver(workspace.job(), make_executor=lambda job, spec: FakeExecutor(spec, failpoint=wait))
    reports = []
    thread = threading.Thread(target=lambda: reports.append(slow.run()))
    thread.start()
    assert entered.wait(30)
    with pytest.raises(BusyError, match=rf"nightly/once: another run is working on it; found process {os.getpid()} on"):
        workspace.driver(workspace.job(), make_executor=never).run()
    leave.set()
    thread.join()
    assert reports[0].num_rows == 12
    assert workspace.places() == workspace.source_places()


def test_a_run_that_failed_lets_the_next_one_start_at_once(workspace):
    for _ in range(3):
        crash(workspace, at="stage 0")
    assert workspace.run().num_rows == 12
    assert sorted(path.name for path in workspace.layout().epochs.glob("*.json"))[-1] == "000004.json"


def test_a_silent_owner_on_another_machine_is_waited_for(workspace):
    owned_elsewhere(workspace)
    slept = []
    report = workspace.driver(
        workspace.job(), make_owner=lambda store, layout: Ownership(store, layout, lease_s=9.0, sleep=slept.append)
    ).run()
    assert (report.num_rows, sum(slept)) == (12, 9.0)


def test_a_live_owner_on_another_machine_is_not_disturbed(workspace):
    owned_elsewhere(workspace)

    def beat(seconds: float) -> None:
        STORE.replace(workspace.layout().heartbeat(1), b"2\n")

    with pytest.raises(BusyError, match="found process 1 on other, epoch 1; wait for it"):
        workspace.driver(
            workspace.job(),
            make_executor=never,
            make_owner=lambda store, layout: Ownership(store, layout, sleep=beat),
        ).run()


def test_a_run_that_was_superseded_stops_and_what_it_committed_counts(workspace):
    def take_over(name: str) -> None:
        if name == "staged 1":
            record = OwnerRecord(epoch=2, host="other|boot|pid:[1]", pid=1, process="5", run_id="theirs")
            STORE.put_new(workspace.layout().epoch(2), record.to_bytes())
            STORE.replace(workspace.layout().heartbeat(2), b"released\n")

    with pytest.raises(BusyError, match="another run took over; let it finish; what was committed here counts"):
        workspace.driver(workspace.job(), make_executor=lambda job, spec: FakeExecutor(spec, failpoint=take_over)).run()
    assert workspace.run().rows_this_attempt == 5
    assert workspace.places() == workspace.source_places()


def test_a_night_that_another_run_takes_over_stops_neither_the_next_one_nor_the_caller(workspace):
    class GivesUp(FakeExecutor):
        """Stops what it has under way when nobody listens any more, as the local executor does."""

        def run(self, tasks, *, stop):
            try:
                yield from super().run(tasks, stop=stop)
            finally:
                stop.set()

    def take_over(name: str) -> None:
        if name == "staged 2":
            record = OwnerRecord(epoch=3, host="other|boot|pid:[1]", pid=1, process="5", run_id="theirs")
            STORE.put_new(workspace.layout(NIGHTS[0]).epoch(3), record.to_bytes())

    crash(workspace, NIGHTS[0])
    workspace.write_file("c.parquet", 3, start=50)
    stop = threading.Event()
    report = workspace.driver(
        workspace.job(NIGHTS[1]), stop=stop, make_executor=lambda job, spec: GivesUp(spec, failpoint=take_over)
    ).run()
    assert (report.num_rows, report.earlier) == (3, ())
    assert not stop.is_set()


# --- What was committed is gone or taken -----------------------------------------------------------------------------


def test_a_staged_file_that_is_gone_or_short_stops_before_anything_is_visible(workspace):
    crash(workspace, at="stage 3")
    staged = sorted(workspace.layout().staging.glob("00001-*.parquet"))[0]
    whole = staged.read_bytes()
    staged.write_bytes(whole[:-10])
    with pytest.raises(DataError, match=rf"a committed file is gone or has changed; expected {len(whole)} bytes"):
        workspace.run()
    staged.unlink()
    with pytest.raises(DataError, match=r"a committed file is gone or has changed; .*found no file; restore it"):
        workspace.run()
    assert workspace.places() == Counter()
    staged.write_bytes(whole)
    assert workspace.run().state == "committed"


def test_a_published_name_that_somebody_else_took_is_not_overwritten(workspace):
    with pytest.raises(KilledError):
        workspace.driver(workspace.job(), store=DyingStore("link_new")).run()
    record = json.loads(workspace.layout().shard(2).read_text())
    final = workspace.sink / "data" / f"part-00002-{record['shard_id'][:12]}.parquet"
    final.parent.mkdir(parents=True, exist_ok=True)
    final.write_bytes(b"x" * record["files"][0]["size_bytes"])  # of the same size, even
    with pytest.raises(ConflictError, match=r"the name of a published file is taken; .* move that file away"):
        workspace.run()
    final.unlink()
    assert workspace.run().state == "committed"
    assert workspace.places() == workspace.source_places()


def test_a_half_published_run_is_rolled_forward_by_any_window(workspace):
    with pytest.raises(KilledError):
        workspace.driver(workspace.job(NIGHTS[0]), store=DyingStore("put_new", "done.json")).run()
    assert workspace.places() == workspace.source_places()  # visible, but not yet said to be
    report = workspace.driver(workspace.job(NIGHTS[1]), make_executor=never).run()
    assert [item.num_rows for item in report.earlier] == [12]
    assert workspace.places() == workspace.source_places()


class ForeignDisk(LocalStore):
    """Finds nothing in the staging folder: it is on a disk that the workers do not share."""

    def size(self, path):
        return None if path.parent.name == "staging" else super().size(path)


def test_a_shard_whose_file_cannot_be_seen_is_not_elected(workspace):
    with pytest.raises(SetupError, match=r"a worker's output is not what it said; .*found no such file; .*nodes share"):
        workspace.driver(workspace.job(), store=ForeignDisk()).run()
    assert files_below(workspace.layout().shards) == []
    assert workspace.run().num_rows == 12


def test_data_on_another_file_system_is_refused_before_anything_is_written(workspace):
    workspace.sink.mkdir()
    (workspace.sink / "data").symlink_to("/proc")  # always a file system of its own
    with pytest.raises(SetupError, match=r"are on two file systems; expected one: files are published by hard links"):
        workspace.run()
    assert [path.name for path in workspace.sink.iterdir()] == ["data"]
    (workspace.sink / "data").unlink()
    assert workspace.run().num_rows == 12
