from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from engine_samples import config_of, query, string_array, write_source

import distilbatch
from distilbatch.engine import dead_letter
from distilbatch.inference.readouts import Reading, SequenceLogits

DEAD_LETTER = Path("_distilbatch/job/once/dead_letter.parquet")


@pytest.fixture
def overflows(monkeypatch):
    """A model that has no finite score for texts of a single token."""
    original = SequenceLogits.read

    def read(self, model, states, packed):
        short = torch.tensor([length == 3 for length in packed.layout.lengths])
        return Reading(torch.where(short[:, None], float("nan"), original(self, model, states, packed).values))

    monkeypatch.setattr(SequenceLogits, "read", read)


def test_error_rows_are_kept_with_their_text_and_place(tmp_path, checkpoint, overflows):
    source = write_source(tmp_path / "in", ["bada kego", "bada", None, "", "kego", "limo limo"], files=2)
    distilbatch.run(config_of(source, tmp_path / "out", checkpoint))
    found = query("SELECT * FROM read_parquet(?) ORDER BY source_file", tmp_path / "out" / DEAD_LETTER)
    assert [row[:-1] for row in found] == [("bada", 1, "part-0.parquet", 1), ("kego", 4, "part-1.parquet", 1)]
    assert all("topic: the model gave no finite value" in row[-1] for row in found)


def test_rows_far_apart_are_read_by_themselves(tmp_path, checkpoint, overflows, monkeypatch):
    read: list[tuple[int, int]] = []
    original = dead_letter.read_shard

    def counting(root, fragment, start, stop, **options):
        read.append((start, stop))
        return original(root, fragment, start, stop, **options)

    monkeypatch.setattr(dead_letter, "read_shard", counting)
    monkeypatch.setattr(dead_letter, "DEFAULT_BATCH_ROWS", 10)
    texts = ["bada" if row in {3, 5, 40, 50, 99} else "kego limo" for row in range(100)]
    source = write_source(tmp_path / "in", texts, group_rows=30)
    distilbatch.run(config_of(source, tmp_path / "out", checkpoint))
    assert read == [(3, 6), (40, 51), (99, 100)]
    found = query("SELECT source_row, id, text FROM read_parquet(?) ORDER BY 1", tmp_path / "out" / DEAD_LETTER)
    assert found == [(row, row, "bada") for row in (3, 5, 40, 50, 99)]


def test_rows_that_could_not_be_read_are_there_without_text(tmp_path, checkpoint):
    source = write_source(tmp_path / "in", ["bada kego"] * 90, group_rows=30)
    path = source / "part-0.parquet"
    chunk = pq.read_metadata(path).row_group(1).column(1)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(bytes(data))
    config = config_of(source, tmp_path / "out", checkpoint)
    config["source"]["on_bad_file"] = "quarantine"
    report = distilbatch.run(config)
    assert report.statuses == {"ok": 60, "error": 30}
    found = query("SELECT source_row, text FROM read_parquet(?) ORDER BY 1", tmp_path / "out" / DEAD_LETTER)
    assert found == [(row, None) for row in range(30, 60)]


def test_broken_text_is_mended_for_strict_readers(tmp_path, checkpoint, overflows):
    source = write_source(tmp_path / "in", ["bada", "kego"])
    table = pa.table({"id": [0, 1], "text": string_array([b"bada \xff", b"kego limo"])})
    pq.write_table(table, source / "part-0.parquet")
    report = distilbatch.run(config_of(source, tmp_path / "out", checkpoint))
    assert report.statuses == {"error": 1, "ok": 1}
    assert query("SELECT text FROM read_parquet(?)", tmp_path / "out" / DEAD_LETTER) == [("bada \ufffd",)]


def test_a_source_that_has_moved_on_leaves_place_and_error(tmp_path, checkpoint, overflows, monkeypatch):
    source = write_source(tmp_path / "in", ["bada kego", "bada"])
    original = dead_letter.read_shard

    def moved(*args, **options):
        (source / "part-0.parquet").unlink()
        return original(*args, **options)

    monkeypatch.setattr(dead_letter, "read_shard", moved)
    distilbatch.run(config_of(source, tmp_path / "out", checkpoint))
    found = query("SELECT source_file, source_row, text, id FROM read_parquet(?)", tmp_path / "out" / DEAD_LETTER)
    assert found == [("part-0.parquet", 1, None, None)]


def test_without_error_rows_there_is_none(tmp_path, checkpoint):
    source = write_source(tmp_path / "in", ["bada kego", None, ""])
    distilbatch.run(config_of(source, tmp_path / "out", checkpoint))
    assert not (tmp_path / "out" / DEAD_LETTER).exists()


def test_a_published_file_that_a_reader_has_taken_away_is_done_without(tmp_path, checkpoint, overflows, caplog):
    source = write_source(tmp_path / "in", ["bada kego", "bada", "kego", "limo limo"], files=2)
    config = config_of(source, tmp_path / "out", checkpoint)
    distilbatch.run(config)
    (tmp_path / "out" / DEAD_LETTER).unlink()
    (tmp_path / "out" / DEAD_LETTER).with_name("metrics.json").unlink()  # as after a crash right behind the end
    next((tmp_path / "out" / "data").glob("part-00000-*")).rename(tmp_path / "taken.parquet")
    assert distilbatch.run(config).state == "already committed"
    assert "its error rows are not in the dead letter" in caplog.text
    assert query("SELECT text FROM read_parquet(?)", tmp_path / "out" / DEAD_LETTER) == [("kego",)]
