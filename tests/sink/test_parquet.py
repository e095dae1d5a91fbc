"""What close returns is complete and durable; anything else leaves nothing behind."""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilbatch.errors import ConfigError, DataError, ResourceError, SetupError
from distilbatch.fingerprint import sha256_file
from distilbatch.sink import parquet as sink_parquet
from distilbatch.sink import staged_file
from distilbatch.sink.parquet import ParquetStager, read_footer

FOOTER = {"run_key": "job/once", "shard_id": "s1", "attempt_id": "a1"}


def stager(folder, **changes):
    return ParquetStager(lambda part: folder / f"00000-a1-{part:03d}.parquet", **{"footer": FOOTER, **changes})


def batch(rows, **columns):
    return pa.record_batch({"n": list(rows), **columns})


def stage(folder, batches, **changes):
    with stager(folder, **changes) as open_stager:
        for item in batches:
            open_stager.write(item)
        return open_stager.close()


def test_a_staged_file_is_what_it_says(tmp_path):
    (staged,) = stage(tmp_path, [batch(range(10)), batch(range(10, 15))])
    path = tmp_path / staged.name
    assert (staged.name, staged.partition, staged.num_rows) == ("00000-a1-000.parquet", (), 15)
    assert (staged.size_bytes, staged.sha256) == (path.stat().st_size, sha256_file(path))
    assert read_footer(path) == {**FOOTER, "num_rows": "15"}
    assert pq.read_metadata(path).metadata[b"distilbatch.shard_id"] == b"s1"
    assert duckdb.sql(f"select n from '{path}' order by n").fetchall() == [(n,) for n in range(15)]


def test_row_groups_have_the_rows_asked_for_whatever_the_batches(tmp_path):
    (staged,) = stage(tmp_path, [batch(range(7))] * 5, row_group_rows=10)
    metadata = pq.read_metadata(tmp_path / staged.name)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [10, 10, 10, 5]


def test_one_large_batch_is_cut_into_row_groups(tmp_path):
    (staged,) = stage(tmp_path, [batch(range(25))], row_group_rows=10)
    metadata = pq.read_metadata(tmp_path / staged.name)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [10, 10, 5]


def test_a_row_group_closes_early_when_its_bytes_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr(staged_file, "MAX_ROW_GROUP_BYTES", 1000)
    (staged,) = stage(tmp_path, [batch(range(100)), batch(range(200)), batch(range(3))])
    metadata = pq.read_metadata(tmp_path / staged.name)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [300, 3]


def test_memory_over_all_open_files_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sink_parquet, "MAX_BUFFERED_BYTES", 1000)
    batches = [batch(range(20), k=[str(i % 5) for i in range(20)]) for _ in range(20)]
    staged = stage(tmp_path, batches, partition_by=["k"])
    groups = [pq.read_metadata(tmp_path / file.name).num_row_groups for file in staged]
    assert [file.num_rows for file in staged] == [80] * 5
    assert sum(groups) > 5


def test_pages_have_checksums_statistics_and_an_index(tmp_path):
    (staged,) = stage(tmp_path, [batch([3, 1, 2])])
    chunk = pq.read_metadata(tmp_path / staged.name).row_group(0).column(0)
    assert (chunk.compression, chunk.statistics.min, chunk.statistics.max) == ("ZSTD", 1, 3)
    assert chunk.has_offset_index
    assert chunk.has_column_index
    data = bytearray((tmp_path / staged.name).read_bytes())
    data[chunk.dictionary_page_offset + chunk.total_compressed_size - 1] ^= 1
    (tmp_path / "damaged.parquet").write_bytes(data)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(tmp_path / "damaged.parquet", page_checksum_verification=True)


def test_partitions_become_files_in_first_seen_order_without_their_columns(tmp_path):
    batches = [batch([0, 1], k=["b", "a"]), batch([2, 3], k=[None, "b"])]
    staged = stage(tmp_path, batches, partition_by=["k"])
    assert [(s.name[-11:-8], s.partition, s.num_rows) for s in staged] == [
        ("000", (("k", "b"),), 2),
        ("001", (("k", "a"),), 1),
        ("002", (("k", None),), 1),
    ]
    rows = [pq.read_table(tmp_path / s.name).to_pylist() for s in staged]
    assert rows == [[{"n": 0}, {"n": 3}], [{"n": 1}], [{"n": 2}]]
    assert [read_footer(tmp_path / s.name)["num_rows"] for s in staged] == ["2", "1", "1"]


def test_too_many_partitions_end_the_shard_with_a_remedy_and_leave_nothing(tmp_path):
    message = r"partition_by k gives too many files; expected at most 3 distinct values.*; partition by a column with"
    with pytest.raises(ConfigError, match=message):
        stage(tmp_path, [batch(range(4), k=["a", "b", "c", "d"])], partition_by=["k"], max_open_files=3)
    assert os.listdir(tmp_path) == []


def test_no_rows_give_no_files(tmp_path):
    assert stage(tmp_path, []) == ()
    assert stage(tmp_path, [batch([]), batch([])]) == ()
    assert os.listdir(tmp_path) == []


def test_schema_metadata_is_not_part_of_the_output(tmp_path):
    other = batch([2]).replace_schema_metadata({"pandas": "{}"})
    (staged,) = stage(tmp_path, [batch([1]), other])
    assert pq.read_table(tmp_path / staged.name).column("n").to_pylist() == [1, 2]
    assert b"pandas" not in pq.read_metadata(tmp_path / staged.name).metadata


def test_a_later_schema_that_differs_is_refused_and_both_are_named(tmp_path):
    message = "the output schema changed within a shard; expected n: int64; found n: double"
    with pytest.raises(DataError, match=message):
        stage(tmp_path, [batch([1]), pa.record_batch({"n": [1.5]})])
    assert os.listdir(tmp_path) == []


def test_an_existing_file_is_never_overwritten(tmp_path):
    path = tmp_path / "00000-a1-000.parquet"
    path.write_text("mine")
    with pytest.raises(SetupError, match=r"cannot create .*; expected a name that was never used; found File"):
        stage(tmp_path, [batch([1])])
    assert path.read_text() == "mine"


def test_a_planted_link_is_not_followed(tmp_path):
    (tmp_path / "00000-a1-000.parquet").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SetupError, match="cannot create"):
        stage(tmp_path, [batch([1])])
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(SetupError, match=f"expected the folder {tmp_path / 'gone'} to exist"):
        stage(tmp_path / "gone", [batch([1])])


def test_an_exception_inside_the_block_leaves_no_file(tmp_path):
    with pytest.raises(KeyError), stager(tmp_path, partition_by=["k"], row_group_rows=2) as open_stager:  # noqa: PT012
        open_stager.write(batch(range(5), k=list("abcab")))
        assert len(os.listdir(tmp_path)) == 3
        raise KeyError
    gc.collect()  # a dropped Parquet writer must not write its footer now
    assert os.listdir(tmp_path) == []


def test_leaving_the_block_without_close_leaves_no_file(tmp_path):
    with stager(tmp_path) as open_stager:
        open_stager.write(batch([1]))
    assert os.listdir(tmp_path) == []


def test_files_that_close_returned_are_not_removed_by_a_later_error(tmp_path):
    with pytest.raises(KeyError), stager(tmp_path) as open_stager:  # noqa: PT012
        open_stager.write(batch([1]))
        open_stager.close()
        raise KeyError
    assert len(os.listdir(tmp_path)) == 1


def test_a_closed_or_failed_stager_takes_nothing_more(tmp_path):
    closed = stager(tmp_path)
    closed.close()
    failed = stager(tmp_path, partition_by=["absent"])
    with pytest.raises(ConfigError, match="partition column 'absent'"):
        failed.write(batch([1]))
    for used in (closed, failed):
        with pytest.raises(ValueError, match="the stager is closed"):
            used.write(batch([1]))
        with pytest.raises(ValueError, match="the stager is closed"):
            used.close()


def test_a_codec_parquet_does_not_have_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written as Parquet"):
        stage(tmp_path, [batch([1])], compression="nonsense")
    assert os.listdir(tmp_path) == []


def test_a_failed_fsync_is_not_repeated_and_discards_everything(tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def fail_second(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail_second)
    with pytest.raises(SetupError, match=r"cannot fsync .*001.parquet; found Input/output error; check the disk"):
        stage(tmp_path, [batch(range(2), k=["a", "b"])], partition_by=["k"])
    gc.collect()
    assert os.listdir(tmp_path) == []
    assert len(calls) == 2


@pytest.mark.parametrize("failing_write", range(1, 8))
def test_a_failed_write_at_any_point_discards_everything(tmp_path, monkeypatch, failing_write):
    calls = []

    class FailingDisk:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            calls.append(len(data))
            if len(calls) == failing_write:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    real = os.fdopen
    monkeypatch.setattr(staged_file.os, "fdopen", lambda descriptor, mode: FailingDisk(real(descriptor, mode)))
    with pytest.raises(ResourceError, match=r"cannot write .*; found No space left on device; free space"):
        stage(tmp_path, [batch(range(2), k=["a", "b"])] * 2, partition_by=["k"], row_group_rows=1)
    gc.collect()
    assert os.listdir(tmp_path) == []
    assert len(calls) == failing_write


def test_files_and_then_their_folder_are_made_durable(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def record(descriptor):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    stage(tmp_path, [batch(range(2), k=["a", "b"])], partition_by=["k"])
    assert synced == ["00000-a1-000.parquet", "00000-a1-001.parquet", tmp_path.name]


def test_bytes_that_changed_on_the_way_to_the_disk_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(staged_file, "read_footer", lambda path: {**FOOTER, "num_rows": "2"})
    with pytest.raises(SetupError, match=r"is not what was written to it; expected .*'num_rows': '1'"):
        stage(tmp_path, [batch([1])])
    assert os.listdir(tmp_path) == []


PROGRAM = """
    import json, os, random, sys
    from pathlib import Path
    import pyarrow as pa
    from distilbatch.errors import DistilbatchError
    from distilbatch.sink.parquet import ParquetStager
    folder = Path(sys.argv[1])
    {prepare}
    try:
        with ParquetStager(lambda n: folder / f"{{n}}.parquet", footer={{}}, row_group_rows=100) as stager:
            for _ in range(40):
                stager.write(pa.record_batch({{"x": [random.randbytes(1000) for _ in range(100)]}}))
            stager.close()
        result = "no error"
    except DistilbatchError as error:
        result = type(error).__name__, error.exit_code, str(error)
    print(json.dumps([result, os.listdir(folder)]))
"""


def run_program(folder, prepare):
    program = textwrap.dedent(PROGRAM.format(prepare=prepare))
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_a_file_size_limit_is_a_resource_error_and_leaves_nothing(tmp_path):
    limit = 1 << 20
    prepare = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    (kind, exit_code, message), left = run_program(tmp_path, prepare)
    assert (kind, exit_code, left) == (ResourceError.__name__, 7, [])
    assert message.startswith(f"cannot write {tmp_path}/0.parquet; expected room for the output; found File too large")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != limit


def test_a_full_disk_is_a_resource_error_and_leaves_nothing(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        (kind, exit_code, message), left = run_program(tmp_path, "")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert (kind, exit_code, left) == ("ResourceError", 7, [])
    assert "found No space left on device; free space or raise the quota" in message


@pytest.mark.parametrize("content", [b"", b"text", "cut", "foreign", "rows"])
def test_read_footer_refuses_what_is_not_a_whole_file_of_ours(tmp_path, content):
    path = tmp_path / "x.parquet"
    message = "cannot be read; expected a whole Parquet file"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "cut":
        (staged,) = stage(tmp_path, [batch(range(100))])
        path.write_bytes((tmp_path / staged.name).read_bytes()[:-1])
    else:
        metadata = {"distilbatch.num_rows": "2"} if content == "rows" else {}
        table = pa.table({"n": [1]}).replace_schema_metadata(metadata)
        pq.write_table(table, path)
        message = "does not have the rows its footer states; expected distilbatch.num_rows=1; found "
    with pytest.raises(DataError, match=message):
        read_footer(path)


names = st.none() | st.text(st.characters(codec="utf-8"), max_size=8)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.text(max_size=5) | st.none(), names), max_size=40), data=st.data())
def test_every_row_written_is_in_exactly_one_file_in_order(tmp_path_factory, rows, data):
    folder = tmp_path_factory.mktemp("stage")
    cut = data.draw(st.integers(1, 9))
    schema = pa.schema([("i", pa.int64()), ("t", pa.string()), ("k", pa.string())])
    batches = [
        pa.record_batch([list(range(start, start + len(part))), *map(list, zip(*part, strict=True))], schema=schema)
        for start in range(0, len(rows), cut)
        if (part := rows[start : start + cut])
    ]
    staged = stage(folder, batches, partition_by=["k"], row_group_rows=data.draw(st.integers(1, 9)))
    seen = []
    for file in staged:
        table = pq.read_table(folder / file.name).to_pylist()
        assert len(table) == file.num_rows > 0
        assert [row["i"] for row in table] == sorted(row["i"] for row in table)
        seen += [(row["i"], row["t"], dict(file.partition)["k"]) for row in table]
    assert sorted(seen, key=lambda row: row[0]) == [(i, t, k) for i, (t, k) in enumerate(rows)]
    assert len({file.partition for file in staged}) == len(staged)
