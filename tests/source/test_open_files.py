"""A row group of many shards is decoded about once by each worker, and no more files stay open than are needed."""

from __future__ import annotations

import os
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilbatch.errors import ConflictError
from distilbatch.source.listing import list_fragments
from distilbatch.source.open_files import OpenFiles
from distilbatch.source.reader import read_shard

ROWS, SHARD = 4000, 100
STARTS = range(0, ROWS, SHARD)


class Decoded:
    """Counts the rows that pyarrow decodes, and the files that are open."""

    def __init__(self, monkeypatch) -> None:
        self.rows = 0
        self.open: list[pa.OSFile] = []
        iter_batches, os_file = pq.ParquetFile.iter_batches, pa.OSFile

        def counted(parquet, *args, **kwargs):
            for batch in iter_batches(parquet, *args, **kwargs):
                self.rows += batch.num_rows
                yield batch

        def opened(path):
            file = os_file(path)
            self.open = [*self.still_open, file]
            return file

        monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
        monkeypatch.setattr(pa, "OSFile", opened)

    @property
    def still_open(self) -> list[pa.OSFile]:
        return [file for file in self.open if not file.closed]


@pytest.fixture
def source(tmp_path):
    texts = [f"{i}:" + os.urandom(20).hex() for i in range(ROWS)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", use_dictionary=False)
    pq.write_table(pa.table({"text": texts[:500]}), tmp_path / "b.parquet", row_group_size=50)
    found = list_fragments(
        tmp_path, text_column="text", columns=(), partitioning="none", glob="*.parquet", on_bad_file="fail"
    )

    def rows(start, stop=None, files=None, index=0, batch_rows=64):
        fragment = found.fragments[index]
        return read_shard(
            tmp_path, fragment, start, stop or start + SHARD, schema=found.schema, text_column="text", files=files,
            batch_rows=batch_rows,
        )  # fmt: skip

    rows.texts, rows.root = texts, tmp_path
    return rows


def texts_of(batches):
    return [text for item in batches for text in item.batch.column("text").to_pylist()]


@pytest.mark.parametrize("batch_rows", [7, 64, 4096])
def test_shards_in_order_decode_each_row_once(source, monkeypatch, batch_rows):
    decoded, files = Decoded(monkeypatch), OpenFiles()
    found = [text for start in STARTS for text in texts_of(source(start, files=files, batch_rows=batch_rows))]
    assert found == source.texts
    assert decoded.rows == ROWS
    assert len(decoded.still_open) == 1


def test_without_a_place_to_wait_nothing_stays_open(source, monkeypatch):
    decoded = Decoded(monkeypatch)
    assert texts_of(source(2000)) == source.texts[2000:2100]
    assert decoded.still_open == []
    assert decoded.rows >= 2100  # what makes many shards of a row group quadratic


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_that_take_turns_decode_the_row_group_once_each(source, monkeypatch, workers):
    decoded = Decoded(monkeypatch)
    kept = [OpenFiles() for _ in range(workers)]
    for number, start in enumerate(STARTS):
        assert texts_of(source(start, files=kept[number % workers])) == source.texts[start : start + SHARD]
    assert decoded.rows <= workers * ROWS


def test_threads_of_a_worker_never_hold_more_files_than_shards(source, monkeypatch):
    decoded, files = Decoded(monkeypatch), OpenFiles()
    todo, lock, wrong = iter(STARTS), threading.Lock(), []

    def work():
        while True:
            with lock:
                start = next(todo, None)
            if start is None:
                return
            if texts_of(source(start, files=files)) != source.texts[start : start + SHARD]:
                wrong.append(start)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert decoded.rows <= 2 * ROWS + SHARD
    assert len(decoded.still_open) <= 2


def test_two_shards_at_a_time_have_a_file_each_and_both_wait(source, monkeypatch):
    decoded, files = Decoded(monkeypatch), OpenFiles()
    one, two = source(0, files=files), source(100, files=files)
    next(one), next(two)
    list(one), list(two)
    assert len(decoded.still_open) == 2
    before = decoded.rows
    assert texts_of(source(200, files=files)) == source.texts[200:300]
    assert decoded.rows - before <= SHARD  # from the one that had come to row 200, not to row 100
    list(source(0, 50, files=files, index=1))
    assert len(decoded.still_open) <= 2


def test_a_shard_before_the_place_of_a_file_starts_anew(source):
    files = OpenFiles()
    for start in (500, 200, 200, 3900, 0):
        assert texts_of(source(start, files=files)) == source.texts[start : start + SHARD]


def test_a_file_that_is_further_on_is_left_to_the_shard_that_comes_there(source, monkeypatch):
    decoded, files = Decoded(monkeypatch), OpenFiles()
    together = [source(start, files=files) for start in (0, 2000)]
    for rows in together:
        next(rows)  # both are under way, so that both files are kept
    for rows in together:
        list(rows)
    assert texts_of(source(1000, files=files)) == source.texts[1000:1100]
    before = decoded.rows
    assert texts_of(source(2100, files=files)) == source.texts[2100:2200]
    assert decoded.rows - before <= SHARD + 64


def test_ranges_over_many_row_groups_and_files(source):
    files = OpenFiles()
    for start, stop in ((0, 120), (120, 130), (130, 149), (149, 300), (300, 500)):
        assert texts_of(source(start, stop, files, 1)) == source.texts[start:stop]
        assert texts_of(source(start, stop, files, 0)) == source.texts[start:stop]


def test_a_shard_that_is_given_up_half_way_closes_its_file(source, monkeypatch):
    decoded, files = Decoded(monkeypatch), OpenFiles()
    rows = source(0, files=files)
    next(rows)
    rows.close()
    assert decoded.still_open == []
    assert texts_of(source(50, files=files)) == source.texts[50:150]


@pytest.mark.parametrize("change", ["gone", "replaced"])
def test_a_file_that_changes_between_two_shards_is_a_conflict(source, change):
    files = OpenFiles()
    list(source(0, files=files))
    path = source.root / "a.parquet"
    path.unlink()
    if change == "replaced":
        pq.write_table(pa.table({"text": ["other"] * ROWS}), path)
    with pytest.raises(ConflictError, match=r"a\.parquet changed after the run was planned"):
        list(source(100, files=files))


def test_what_waits_in_memory_is_one_batch(source):
    files = OpenFiles()
    before = pa.total_allocated_bytes()
    list(source(0, files=files))
    assert pa.total_allocated_bytes() - before < 512 << 10
