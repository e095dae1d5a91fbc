from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilbatch.engine import buffers
from distilbatch.engine.buffers import sort_buffers
from distilbatch.records import SourceBatch


def batches(sizes, *, errors=(), start=0):
    row = start
    for number, size in enumerate(sizes):
        values = pa.record_batch({"row": pa.array(range(row, row + size), pa.int64())})
        yield SourceBatch(values, row, "unreadable" if number in errors else "")
        row += size


def broken_rows(found) -> set[int]:
    return {row for buffer in found if buffer.error for row in buffer.batch.column("row").to_pylist()}


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), max_size=20),
    errors=st.sets(st.integers(0, 19)),
    target=st.integers(1, 20),
    start=st.integers(0, 1000),
)
def test_every_row_stays_at_its_place(sizes, errors, target, start):
    found = list(sort_buffers(batches(sizes, errors=errors, start=start), target_rows=target))
    rows = [row for buffer in found for row in buffer.batch.column("row").to_pylist()]
    assert rows == list(range(start, start + sum(sizes)))
    for buffer in found:
        assert buffer.row_start == buffer.batch.column("row")[0].as_py()
        assert buffer.batch.num_rows <= max(target, 9)
    assert broken_rows(found) == broken_rows(batches(sizes, errors=errors, start=start))


def test_batches_are_joined_up_to_the_target():
    found = [buffer.batch.num_rows for buffer in sort_buffers(batches([3, 3, 3, 3, 3]), target_rows=7)]
    assert found == [6, 6, 3]


def test_a_batch_over_the_target_passes_as_it_is():
    assert [buffer.batch.num_rows for buffer in sort_buffers(batches([2, 50, 2]), target_rows=7)] == [2, 50, 2]


def test_unreadable_rows_stay_by_themselves():
    found = list(sort_buffers(batches([2, 2, 2, 2], errors={1}), target_rows=100))
    assert [(buffer.batch.num_rows, buffer.error) for buffer in found] == [(2, ""), (2, "unreadable"), (4, "")]


def test_bytes_bound_a_buffer_as_well(monkeypatch):
    monkeypatch.setattr(buffers, "MAX_BUFFER_BYTES", 100)
    assert [b.batch.num_rows for b in sort_buffers(batches([5, 5, 5, 5, 5]), target_rows=1000)] == [10, 10, 5]


def test_the_source_is_read_as_it_is_needed():
    read = []

    def source():
        for batch in batches([4] * 10):
            read.append(batch.row_start)
            yield batch

    found = sort_buffers(source(), target_rows=8)
    next(found)
    assert read == [0, 4, 8]


@pytest.mark.parametrize("sizes", [[], [0]])
def test_no_rows_make_no_trouble(sizes):
    assert sum(buffer.batch.num_rows for buffer in sort_buffers(batches(sizes), target_rows=8)) == 0
