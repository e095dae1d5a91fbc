from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_samples import (
    LABELS,
    list_texts,
    query,
    random_texts,
    string_array,
    topic_spec,
    worker_spec,
    write_checkpoint,
    write_source,
)

from distilbatch import schema
from distilbatch.engine import tally
from distilbatch.engine.attempt import DECODE, PREDICT, PROBE, TOKENIZE, Attempt
from distilbatch.engine.crashes import CRASH_MESSAGE
from distilbatch.engine.spec import DeviceSpec, ShardTask
from distilbatch.engine.worker import Worker
from distilbatch.errors import ConfigError, ConflictError, DataError, InterruptedRunError, ResourceError, SetupError
from distilbatch.records import Shard, ShardResult
from distilbatch.sink.parquet import read_footer
from distilbatch.source.listing import Listing


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "in", random_texts(250))


class Work:
    """A worker over a source, and what it staged."""

    def __init__(self, source: Path, sink: Path, model: Path, **changes: object) -> None:
        passthrough = changes.get("passthrough", ("id",))
        self.listing: Listing = list_texts(source, columns=passthrough)
        self.spec = worker_spec(self.listing, source=source, sink=sink, model=model, **changes)
        self.worker = Worker(self.spec)

    def task(self, start: int = 0, stop: int | None = None, *, crashing: tuple[int, ...] = ()) -> ShardTask:
        fragment = self.listing.fragments[0]
        return ShardTask(Shard(0, "5" * 64, 0, start, stop or fragment.num_rows), fragment, dict.fromkeys(crashing, ""))

    def process(self, *rows: int, **options: object) -> tuple[ShardResult, pa.Table]:
        """Process one shard; gives the result and what is in its files, in the order they were staged."""
        result = self.worker.process(self.task(*rows, **options))
        paths = [self.spec.layout.staging / file.name for file in result.files]
        return result, pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths])

    @property
    def staged(self) -> list[str]:
        """Names of whatever is in the staging folder."""
        return sorted(path.name for path in self.spec.layout.staging.iterdir())


@pytest.fixture
def pipeline(tmp_path: Path):
    """Write a pipeline file from the bodies of its hooks."""

    def write(*, before: str = "", after: str = "") -> Path:
        hooks = [f"def {name}(batch):\n    {body}\n" for name, body in (("before", before), ("after", after)) if body]
        given = "".join(f", {name}={name}" for name, body in (("before", before), ("after", after)) if body)
        path = tmp_path / "pipeline.py"
        path.write_text(
            "import pyarrow as pa\nimport pyarrow.compute as pc\nfrom distilbatch import Pipeline, TextClassification\n"
            + "\n".join(hooks)
            + f'PIPELINE = Pipeline(annotate=[TextClassification(name="topic")]{given})\n'
        )
        return path

    return write


# --- One shard, end to end -------------------------------------------------------------------------------------------


def test_a_shard_becomes_one_durable_file_with_a_row_for_each_row(source, tmp_path, checkpoint):
    work = Work(source, tmp_path / "out", checkpoint)
    result, table = work.process(30, 230)
    assert table.column_names == ["id", "topic", "_row"]
    assert table.column("id").to_pylist() == list(range(30, 230))
    rows = table.column("_row").combine_chunks()
    assert rows.field("source_row").to_pylist() == list(range(30, 230))
    assert set(rows.field("source_file").to_pylist()) == {"part-0.parquet"}
    assert result.num_rows == 200
    assert result.statuses == dict(Counter(rows.field("status").to_pylist()))
    assert set(result.statuses) == {"ok", "truncated"}
    labels = Counter(item["label"] for item in table.column("topic").to_pylist())
    assert result.label_counts == {"topic": dict(labels)}
    assert set(labels) <= set(LABELS)
    assert result.metrics["tokens"] == sum(rows.field("n_tokens").to_pylist()) == result.metrics["tokens_computed"]
    assert result.schema_sha256 == schema.schema_sha256(table.schema)
    assert work.staged == [file.name for file in result.files]  # no trace is left
    assert not (tmp_path / "out" / "data").exists()


def test_the_footer_tells_where_the_file_comes_from(source, tmp_path, checkpoint):
    work = Work(source, tmp_path / "out", checkpoint)
    result, _ = work.process()
    footer = read_footer(work.spec.layout.staging / result.files[0].name)
    assert footer == {
        "run_key": "job/once",
        "shard_id": "5" * 64,
        "attempt_id": result.attempt_id,
        "num_rows": "250",
        "precision": "float32",
    }


def test_attempts_at_the_same_shard_never_meet(source, tmp_path, checkpoint):
    work = Work(source, tmp_path / "out", checkpoint)
    (first, one), (second, other) = work.process(), work.process()
    assert first.attempt_id != second.attempt_id
    assert len(work.staged) == 2
    assert one.equals(other)


@pytest.mark.parametrize("sort_buffer_rows", [1, 7, 1000])
def test_labels_do_not_depend_on_how_rows_are_buffered_and_batched(source, tmp_path, checkpoint, sort_buffer_rows):
    _, expected = Work(source, tmp_path / "a", checkpoint).process()
    device = DeviceSpec(device="cpu", threads=1, max_batch_tokens=33)
    work = Work(source, tmp_path / "b", checkpoint, sort_buffer_rows=sort_buffer_rows, device=device)
    _, found = work.process()
    assert found.drop(["topic"]).equals(expected.drop(["topic"]))
    for one, other in zip(expected.column("topic").to_pylist(), found.column("topic").to_pylist(), strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_two_threads_share_a_worker(source, tmp_path, checkpoint):
    work = Work(source, tmp_path / "out", checkpoint)
    _, expected = work.process()
    results: list[ShardResult] = []
    threads = [threading.Thread(target=lambda: results.append(work.worker.process(work.task()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        assert pq.read_table(work.spec.layout.staging / result.files[0].name).equals(expected)


def test_several_heads_write_a_column_each(source, tmp_path, checkpoint):
    folder = write_checkpoint(tmp_path / "tone", seed=1, labels=("up", "down"))
    heads = topic_spec(checkpoint), topic_spec(folder, name="tone", options={"top_k": 2})
    result, table = Work(source, tmp_path / "out", checkpoint, heads=heads).process()
    assert table.column_names == ["id", "topic", "tone", "_row"]
    assert [len(item["scores"]) for item in table.column("tone").to_pylist()] == [2] * 250
    assert sum(result.label_counts["tone"].values()) == sum(result.label_counts["topic"].values()) == 250
    assert result.metrics["tokens_computed"] == 2 * result.metrics["tokens"]


@pytest.mark.parametrize("values", [["a", "b"], [1, 2], [None, "a"]], ids=str)
def test_only_heads_have_their_labels_counted(tmp_path, checkpoint, values):
    structs = pa.array([{"label": value} for value in values])
    source = write_source(tmp_path / "in", ["bada", "kego"], meta=structs)
    result, table = Work(source, tmp_path / "out", checkpoint, passthrough=("id", "meta")).process()
    assert table.column("meta").to_pylist() == structs.to_pylist()
    assert list(result.label_counts) == ["topic"]


def test_labels_of_a_hook_are_counted_as_far_as_they_are_labels(source, tmp_path, checkpoint, pipeline, monkeypatch):
    def counts(labels: str, rows: int) -> dict[str, dict[str, int]]:
        topic = f'pa.StructArray.from_arrays([{labels}], ["label"])'
        hook = pipeline(after=f'return batch.set_column(1, "topic", {topic})')
        return Work(source, tmp_path / "out", checkpoint, pipeline=hook).process(0, rows)[0].label_counts

    as_text = 'batch.column("id").cast(pa.string())'
    monkeypatch.setattr(tally, "MAX_COUNTED_LABELS", 200)
    assert counts('pa.array(["x", None] * (batch.num_rows // 2))', 64) == {"topic": {"x": 32}}
    assert counts(as_text, 200) == {"topic": {str(row): 1 for row in range(200)}}
    assert counts(as_text, 201) == {}
    assert counts(as_text, 250) == {}
    assert counts('batch.column("id")', 250) == {}


def test_documents_without_text_are_rows_all_the_same(tmp_path, checkpoint):
    source = write_source(tmp_path / "in", ["bada", None, "", "\0", b"\xff kego"])
    result, table = Work(source, tmp_path / "out", checkpoint).process()
    assert result.statuses == {"ok": 1, "null": 1, "empty": 2, "repaired": 1}
    assert table.column("topic").is_valid().to_pylist() == [True, False, False, False, True]


def test_a_disk_without_room_for_the_staging_folder_is_no_bug(source, tmp_path, checkpoint, monkeypatch):
    work = Work(source, tmp_path / "out", checkpoint)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(ResourceError, match=r"cannot create .*staging; .* found No space left on device"):
        work.process()


# --- The output file -------------------------------------------------------------------------------------------------


def test_partition_columns_become_files_of_their_own(tmp_path, checkpoint):
    colours = ["red/../x", "green", None] * 40
    source = write_source(tmp_path / "in", random_texts(120), colour=colours)
    work = Work(source, tmp_path / "out", checkpoint, passthrough=("id", "colour"), partition_by=("colour",))
    result, table = work.process()
    assert {file.partition for file in result.files} == {
        (("colour", "red/../x"),),
        (("colour", "green"),),
        (("colour", None),),
    }
    assert [file.num_rows for file in result.files] == [40, 40, 40]
    assert table.column_names == ["id", "topic", "_row"]
    assert sorted(table.column("id").to_pylist()) == list(range(120))


def test_broken_text_is_mended_before_strict_readers_see_it(tmp_path, checkpoint):
    names = string_array([b"fine", b"caf\xe9", None, b"\xff\xfe", "ünï".encode()])
    tags = pa.ListArray.from_arrays([0, 1, 1, 2, 2, 2], string_array([b"a\x80", b"ok"]))
    source = write_source(tmp_path / "in", ["bada"] * 5, name=names, tags=tags)
    with pytest.raises(Exception, match="UTF"):  # the source itself is one that DuckDB refuses
        query("SELECT name FROM read_parquet(?)", source / "part-0.parquet")
    work = Work(source, tmp_path / "out", checkpoint, passthrough=("id", "name", "tags"))
    result, _ = work.process()
    found = query("SELECT name, tags FROM read_parquet(?)", work.spec.layout.staging / result.files[0].name)
    assert found == [
        ("fine", ["a\ufffd"]),
        ("caf\ufffd", []),
        (None, ["ok"]),
        ("\ufffd\ufffd", []),
        ("ünï", []),
    ]


def test_broken_text_in_a_partition_column_is_no_reason_to_fail(tmp_path, checkpoint):
    source = write_source(tmp_path / "in", ["bada"] * 2, name=string_array([b"caf\xe9", b"tea"]))
    result, _ = Work(source, tmp_path / "out", checkpoint, passthrough=("id", "name"), partition_by=("name",)).process()
    assert [file.partition for file in result.files] == [(("name", "caf\ufffd"),), (("name", "tea"),)]


# --- Hooks -----------------------------------------------------------------------------------------------------------


def test_a_before_hook_changes_what_is_read_and_passed_through(source, tmp_path, checkpoint, pipeline):
    hook = pipeline(
        before='return batch.set_column(0, "text", pc.utf8_slice_codeunits(batch.column("text"), 0, 4))'
        '.set_column(1, "id", pc.add(batch.column("id"), 1000))'
    )
    _, table = Work(source, tmp_path / "out", checkpoint, pipeline=hook).process()
    rows = table.column("_row").combine_chunks()
    assert rows.field("n_tokens").to_pylist() == [3] * 250
    assert rows.field("source_row").to_pylist() == list(range(250))
    assert table.column("id").to_pylist() == list(range(1000, 1250))


def test_an_after_hook_changes_what_is_written(source, tmp_path, checkpoint, pipeline):
    hook = pipeline(after='return batch.append_column("score", pc.struct_field(batch.column("topic"), "score"))')
    result, table = Work(source, tmp_path / "out", checkpoint, pipeline=hook).process()
    assert table.column_names == ["id", "topic", "_row", "score"]
    assert table.column("score").to_pylist() == [item["score"] for item in table.column("topic").to_pylist()]
    assert result.schema_sha256 == schema.schema_sha256(table.schema)


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ({"before": 'raise KeyError("language")'}, "hook 'before' failed; found KeyError: 'language'"),
        ({"before": "return batch.slice(1)"}, "expected 64 rows back, as it was given; found 63 rows"),
        ({"before": 'return batch.select(["text"])'}, "passthrough column 'id'; expected int64; found no such column"),
        (
            {"before": 'return batch.set_column(1, "id", batch.column("id").cast("string"))'},
            "passthrough column 'id'; expected int64; found string",
        ),
        ({"after": 'return batch.select(["id"])'}, "hook 'after'; expected the column '_row' back"),
    ],
)
def test_a_hook_that_breaks_its_contract_fails_the_shard_and_leaves_nothing(
    source, tmp_path, checkpoint, pipeline, hooks, message
):
    work = Work(source, tmp_path / "out", checkpoint, pipeline=pipeline(**hooks))
    with pytest.raises(ConfigError, match=message):
        work.process()
    assert work.staged == []
    assert [thread.name for thread in threading.enumerate() if thread.name == "stage"] == []


def test_an_after_hook_has_to_return_the_same_columns_every_time(source, tmp_path, checkpoint, pipeline):
    hook = pipeline(after='return batch.append_column(f"n{batch.num_rows}", batch.column("id"))')
    work = Work(source, tmp_path / "out", checkpoint, pipeline=hook)
    with pytest.raises(DataError, match="the output schema changed within a shard"):
        work.process()
    assert work.staged == []


# --- Rows that cannot be read ----------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """250 rows in groups of 50, of which the second group's text cannot be read."""
    source = write_source(tmp_path / "damaged", random_texts(250), group_rows=50)
    path = source / "part-0.parquet"
    chunk = pq.read_metadata(path).row_group(1).column(1)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(bytes(data))
    return source


def test_an_unreadable_row_group_fails_its_shard(damaged, tmp_path, checkpoint):
    work = Work(damaged, tmp_path / "out", checkpoint)
    with pytest.raises(DataError, match=r"row group 1 of part-0\.parquet cannot be read"):
        work.process()
    assert work.staged == []


def test_under_quarantine_an_unreadable_row_group_becomes_error_rows(damaged, tmp_path, checkpoint):
    result, table = Work(damaged, tmp_path / "out", checkpoint, error_rows=True).process()
    rows = table.column("_row").to_pylist()
    assert [row["source_row"] for row in rows] == list(range(250))
    assert {row["source_row"] for row in rows if row["status"] == "error"} == set(range(50, 100))
    assert all("row group 1 of part-0.parquet cannot be read" in row["error"] for row in rows[50:100])
    assert table.column("topic").slice(50, 50).null_count == 50
    assert result.statuses["error"] == 50


def test_a_file_that_is_not_the_planned_one_is_refused(source, tmp_path, checkpoint):
    work = Work(source, tmp_path / "out", checkpoint)
    write_source(source, random_texts(250, seed=1))
    with pytest.raises(ConflictError, match="changed after the run was planned"):
        work.process()
    assert work.staged == []


# --- Giving up -------------------------------------------------------------------------------------------------------


def test_a_stopped_attempt_ends_soon_and_leaves_nothing(source, tmp_path, checkpoint):
    work = Work(source, tmp_path / "out", checkpoint)
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedRunError, match="shard 0 was given up"):
        work.worker.process(work.task(), stop=stop)
    assert work.staged == []
    assert [thread.name for thread in threading.enumerate() if thread.name == "stage"] == []


# --- Rows that kill --------------------------------------------------------------------------------------------------


def test_crashing_rows_are_error_rows_that_neither_hook_nor_model_meets(tmp_path, checkpoint, pipeline):
    texts = [*random_texts(40), "deadly bada", *random_texts(40, seed=1)]
    source = write_source(tmp_path / "in", texts)
    hook = pipeline(
        before='assert not any("deadly" in text for text in batch.column("text").to_pylist() if text)\n    return batch'
    )
    work = Work(source, tmp_path / "out", checkpoint, pipeline=hook, passthrough=("id", "text"))
    with pytest.raises(ConfigError, match="AssertionError"):
        work.process()
    result, table = work.process(crashing=(40,))
    rows = table.column("_row").to_pylist()
    assert [row["source_row"] for row in rows if row["status"] == "error"] == [40]
    assert (rows[40]["error"], rows[40]["n_tokens"]) == (CRASH_MESSAGE, 0)
    assert table.column("topic").is_valid().to_pylist() == [row != 40 for row in range(81)]
    assert table.column("text").to_pylist() == texts  # the row itself is kept
    assert result.statuses["error"] == 1


def test_crashing_rows_need_no_valid_text(tmp_path, checkpoint):
    source = write_source(tmp_path / "in", ["bada"] * 3)
    table = pa.table({"id": [0, 1, 2], "text": string_array([b"bada", b"\xff\xfe", b"caf\xe9"])})
    pq.write_table(table, source / "part-0.parquet")
    result, _ = Work(source, tmp_path / "out", checkpoint).process(crashing=(1,))
    assert result.statuses == {"ok": 1, "error": 1, "repaired": 1}


@pytest.mark.parametrize("main", ["text", "note"])
def test_a_crashing_row_is_kept_from_all_columns_that_heads_read(tmp_path, checkpoint, pipeline, main):
    notes = ["limo", "deadly", None]
    source = write_source(tmp_path / "in", ["bada", "kego", "nupi"], note=notes)
    pair = {"columns": (("text", "text"), ("text_pair", "note")), "options": {"pair": True}}
    head = topic_spec(checkpoint, **(pair if main == "text" else {"columns": (("text", "note"),)}))
    hook = pipeline(before='assert "deadly" not in batch.column("note").to_pylist()\n    return batch')
    work = Work(source, tmp_path / "out", checkpoint, heads=(head,), pipeline=hook, passthrough=("id", "note"))
    _, table = work.process(crashing=(1,))
    rows = table.column("_row").to_pylist()
    assert (rows[1]["status"], rows[1]["error"], rows[1]["n_tokens"]) == ("error", CRASH_MESSAGE, 0)
    assert rows[0]["status"] == "ok"
    assert table.column("note").to_pylist() == notes


def test_a_hook_that_drops_a_column_that_a_head_reads_is_named(tmp_path, checkpoint, pipeline):
    source = write_source(tmp_path / "in", ["bada"], note=["kego"])
    head = topic_spec(checkpoint, columns=(("text", "text"), ("text_pair", "note")), options={"pair": True})
    work = Work(
        source,
        tmp_path / "out",
        checkpoint,
        heads=(head,),
        passthrough=("id", "note"),
        pipeline=pipeline(before='return batch.drop_columns(["note"])'),
    )
    with pytest.raises(ConfigError, match="no column 'note'; found the columns text, id"):
        work.process()


@pytest.mark.parametrize("kind", ["dictionary(pa.int32(), pa.string())", "string_view()", "json_()"])
@pytest.mark.parametrize("crashing", [(), (1,)])
def test_a_hook_may_return_text_in_any_storage(tmp_path, checkpoint, pipeline, kind, crashing):
    source = write_source(tmp_path / "in", ["bada", "deadly", None])
    hook = pipeline(
        before="text = pa.array(batch.column('text').to_pylist(), pa." + kind + ")\n"
        "    return batch.set_column(batch.schema.get_field_index('text'), 'text', text)"
    )
    work = Work(source, tmp_path / "out", checkpoint, pipeline=hook, passthrough=("id", "text"))
    result, table = work.process(crashing=crashing)
    assert result.statuses == ({"ok": 1, "error": 1, "null": 1} if crashing else {"ok": 2, "null": 1})
    assert table.column("text").to_pylist() == ["bada", "deadly", None]


def test_a_hook_cannot_bring_a_crashing_row_back(tmp_path, checkpoint, pipeline):
    source = write_source(tmp_path / "in", ["bada", "deadly", "kego"])
    hook = pipeline(before='return batch.set_column(0, "text", pa.array(["bada"] * batch.num_rows))')
    result, _ = Work(source, tmp_path / "out", checkpoint, pipeline=hook).process(crashing=(1,))
    assert result.statuses == {"ok": 2, "error": 1}


@pytest.mark.parametrize("stage", [TOKENIZE, PREDICT, DECODE])
def test_a_probe_names_each_row_before_it_is_computed(source, tmp_path, checkpoint, pipeline, monkeypatch, stage):
    work = Work(source, tmp_path / "out", checkpoint, pipeline=pipeline(after="return batch"))
    traced: list[tuple[str, list[int]]] = []
    monkeypatch.setattr(Attempt, "leave_trace", lambda self, name, rows: traced.append((name, rows.tolist())))
    work.worker.probe(work.task(), (3, 70, 71, 249), stage=stage)
    ran = {TOKENIZE: [TOKENIZE], PREDICT: [TOKENIZE, PREDICT], DECODE: [TOKENIZE, PREDICT, DECODE]}[stage]
    assert traced == [(name, [row]) for row in (3, 70, 71, 249) for name in (PROBE, *ran)]


def test_a_probe_runs_the_hooks(source, tmp_path, checkpoint, pipeline):
    for hooks in ({"before": "raise KeyError('x')"}, {"after": "raise KeyError('x')"}):
        work = Work(source, tmp_path / "out", checkpoint, pipeline=pipeline(**hooks))
        with pytest.raises(ConfigError, match="failed; found KeyError: 'x'"):
            work.worker.probe(work.task(), (1,), stage=DECODE)
        work.worker.canary()  # which has nothing to do with the source


def test_a_probe_that_survives_leaves_no_trace(source, tmp_path, checkpoint):
    work = Work(source, tmp_path / "out", checkpoint)
    work.worker.probe(work.task(), (1, 2), stage=DECODE)
    assert work.staged == []


def test_a_worker_that_cannot_see_the_plan_refuses_to_start(source, tmp_path, checkpoint):
    work = Work(source, tmp_path / "out", checkpoint)
    work.spec.layout.plan.unlink()
    with pytest.raises(SetupError, match=r"sink\.path is not shared with node .*; write to a folder that all nodes"):
        Worker(work.spec)
    assert not work.spec.layout.staging.exists()
