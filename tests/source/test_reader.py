"""Rows in are rows out: every row once, in order, from any offset, or an error that names file and row group."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilbatch.errors import ConfigError, ConflictError, DataError
from distilbatch.source import reader
from distilbatch.source.listing import list_fragments
from distilbatch.source.reader import read_shard


def put(path, columns, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **kwargs)
    return path


def listing(root, columns=(), **changes):
    arguments = {"text_column": "text", "partitioning": "hive", "glob": "**/*.parquet", "on_bad_file": "fail"}
    return list_fragments(root, columns=columns, **{**arguments, **changes})


def read(root, found, index=0, rows=None, **changes):
    fragment = found.fragments[index]
    start, stop = rows or (0, fragment.num_rows)
    return list(read_shard(root, fragment, start, stop, schema=found.schema, text_column="text", **changes))


def rows_of(batches):
    return [row for item in batches for row in item.batch.to_pylist()]


@pytest.fixture
def numbered(tmp_path):
    put(tmp_path / "a.parquet", {"text": [f"t{i}" for i in range(1000)], "n": range(1000)}, row_group_size=300)
    return tmp_path


RANGES = [(0, 0), (0, 1), (0, 1000), (299, 301), (300, 600), (450, 470), (999, 1000), (1000, 1000)]


@pytest.mark.parametrize("rows", RANGES)
@pytest.mark.parametrize("batch_rows", [1, 7, 4096])
def test_replayable_from_any_row(numbered, rows, batch_rows):
    if batch_rows == 1 and rows == (0, 1000):
        rows = (250, 350)
    batches = read(numbered, listing(numbered, ["n"]), rows=rows, batch_rows=batch_rows)
    assert rows_of(batches) == [{"text": f"t{i}", "n": i} for i in range(*rows)]
    position = rows[0]
    for item in batches:
        assert (item.row_start, item.error) == (position, "")
        assert 1 <= item.batch.num_rows <= batch_rows
        position += item.batch.num_rows
    assert position == rows[1]


def test_a_single_file_source_is_read(numbered):
    path = numbered / "a.parquet"
    assert len(rows_of(read(path, listing(path)))) == 1000


def test_wrong_arguments_are_refused_before_the_first_row(numbered):
    found = listing(numbered)
    with pytest.raises(ValueError, match=r"a.parquet: expected a row range inside \[0, 1000\)"):
        read_shard(numbered, found.fragments[0], 0, 1001, schema=found.schema, text_column="text")
    with pytest.raises(ConfigError, match="on_bad_rows; expected 'fail' or 'error-rows'; found 'skip'"):
        read(numbered, found, on_bad_rows="skip")
    with pytest.raises(ConfigError, match="text column 'body'; expected one of text"):
        read_shard(numbered, found.fragments[0], 0, 1, schema=found.schema, text_column="body")


TEXTS = ["plain", None, "", "é\x00\ufeff\u200f👍", "x" * 70_000]
TYPES = [
    pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()), pa.binary(), pa.large_binary(), pa.binary_view(),
]  # fmt: skip


@pytest.mark.parametrize("data_type", TYPES, ids=str)
@pytest.mark.parametrize("use_dictionary", [True, False])
@pytest.mark.parametrize("store_schema", [True, False])
def test_text_of_every_type_comes_back_as_it_was(tmp_path, data_type, use_dictionary, store_schema):
    is_bytes = "binary" in str(data_type)
    values = [text.encode() if is_bytes and text is not None else text for text in TEXTS] * 3
    options = {"use_dictionary": use_dictionary, "store_schema": store_schema}
    put(tmp_path / "a.parquet", {"text": pa.array(values, data_type)}, row_group_size=4, **options)
    found = listing(tmp_path)
    batches = read(tmp_path, found)
    assert all(item.batch.schema == found.schema for item in batches)
    assert [row["text"] for row in rows_of(batches)] == values


def test_every_accepted_text_type_in_one_source(tmp_path):
    for number, data_type in enumerate(TYPES):
        value = b"x" if "binary" in str(data_type) else "x"
        put(tmp_path / f"{number}.parquet", {"text": pa.array([value, None], data_type)})
    found = listing(tmp_path)
    assert found.schema.field("text").type == pa.large_binary()
    for index in range(len(TYPES)):
        assert rows_of(read(tmp_path, found, index)) == [{"text": b"x"}, {"text": None}]


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_delta_encoded_text(tmp_path, encoding):
    texts = [f"prefix {i}" for i in range(50)]
    put(tmp_path / "a.parquet", {"text": texts}, use_dictionary=False, column_encoding={"text": encoding})
    assert [row["text"] for row in rows_of(read(tmp_path, listing(tmp_path)))] == texts


def test_invalid_utf8_is_handed_on_for_the_text_policy(tmp_path):
    text = pa.array([b"ok", b"\xff\xfe"]).cast(pa.binary()).view(pa.string())
    put(tmp_path / "a.parquet", {"text": text})
    (item,) = read(tmp_path, listing(tmp_path))
    assert item.batch.column("text").cast(pa.binary()).to_pylist() == [b"ok", b"\xff\xfe"]


def test_drift_missing_reordered_and_widened_columns(tmp_path):
    tag = pa.array(["p"]).dictionary_encode()
    put(tmp_path / "a.parquet", {"text": ["x"], "id": pa.array([1], pa.int32()), "tag": tag})
    put(tmp_path / "b.parquet", {"id": pa.array([2**40]), "text": pa.array([b"y"])})
    put(tmp_path / "c.parquet", {"tag": ["q"], "other": [1], "text": ["z"], "id": pa.nulls(1)})
    found = listing(tmp_path, ["tag", "id"])
    assert [rows_of(read(tmp_path, found, index)) for index in range(3)] == [
        [{"text": b"x", "tag": "p", "id": 1}],
        [{"text": b"y", "tag": None, "id": 2**40}],
        [{"text": b"z", "tag": "q", "id": None}],
    ]


@pytest.mark.parametrize("values", [["x", None], [b"x", None], [None, None]], ids=str)
def test_files_without_a_single_text_give_null_rows(tmp_path, values):
    put(tmp_path / "a.parquet", {"text": pa.nulls(3), "id": range(3)}, row_group_size=2)
    put(tmp_path / "b.parquet", {"text": values, "id": pa.nulls(2)})
    put(tmp_path / "c.parquet", {"text": pa.nulls(0), "id": pa.nulls(0)})
    found = listing(tmp_path, ["id"])
    assert [rows_of(read(tmp_path, found, index)) for index in range(3)] == [
        [{"text": None, "id": number} for number in range(3)],
        [{"text": value, "id": None} for value in values],
        [],
    ]


def test_nested_columns_pass_through_and_gain_missing_members(tmp_path):
    maps = pa.array([[("k", 1)], None], pa.map_("string", "int32"))
    put(tmp_path / "a.parquet", {"text": ["x"], "s": [{"a": ["p", None]}], "m": maps[:1]})
    put(tmp_path / "b.parquet", {"text": ["y"], "s": [{"a": ["q"], "b": 2}], "m": maps[1:]})
    found = listing(tmp_path, ["s", "m"])
    assert rows_of(read(tmp_path, found, 0)) == [{"text": "x", "s": {"a": ["p", None], "b": None}, "m": [("k", 1)]}]
    assert rows_of(read(tmp_path, found, 1)) == [{"text": "y", "s": {"a": ["q"], "b": 2}, "m": None}]


def test_json_and_uuid_columns_are_read_as_they_are_stored(tmp_path):
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0123456789abcdef"], pa.binary(16)))
    json = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}']))
    put(tmp_path / "a.parquet", {"text": ["x"], "u": uuids, "j": json})
    found = listing(tmp_path, ["u", "j"])
    assert rows_of(read(tmp_path, found)) == [{"text": "x", "u": b"0123456789abcdef", "j": '{"a": 1}'}]


def test_list_views_are_read_as_lists_unless_they_were_planned_as_views(tmp_path):
    values = [["p", None], None, []]
    put(tmp_path / "a.parquet", {"text": ["x"] * 3, "l": pa.array(values, pa.list_view(pa.string()))})
    put(tmp_path / "b.parquet", {"text": ["x"] * 3, "l": values})
    found = listing(tmp_path, ["l"])
    assert pa.types.is_list(found.schema.field("l").type)
    planned = replace(found, schema=pa.schema([("text", pa.string()), ("l", pa.list_view(pa.string()))]))
    for each in ((found, 0), (found, 1), (planned, 0)):
        assert [row["l"] for row in rows_of(read(tmp_path, *each))] == values


def test_a_dotted_name_next_to_a_nested_one(tmp_path):
    put(tmp_path / "a.parquet", {"a": [{"b": "nested"}], "a.b": ["dotted"], "text": ["x"]})
    found = listing(tmp_path, ["a.b", "a"])
    assert rows_of(read(tmp_path, found)) == [{"text": "x", "a.b": "dotted", "a": {"b": "nested"}}]


def test_partition_values_fill_their_columns(tmp_path):
    put(tmp_path / "lang=en/dt=__HIVE_DEFAULT_PARTITION__/a.parquet", {"text": ["x"] * 3, "lang": [1, 2, 3]})
    put(tmp_path / "lang=d%2Fe/b.parquet", {"text": ["y"]})
    found = listing(tmp_path, ["lang", "dt"])
    assert rows_of(read(tmp_path, found, 0)) == [{"text": "y", "lang": "d/e", "dt": None}]
    assert rows_of(read(tmp_path, found, 1)) == [{"text": "x", "lang": "en", "dt": None}] * 3


def test_a_lossy_cast_is_an_error_and_not_another_number(tmp_path):
    put(tmp_path / "a.parquet", {"text": ["x"], "id": [2**53 + 1]})
    put(tmp_path / "b.parquet", {"text": ["x"], "id": [0.5]})
    found = listing(tmp_path, ["id"])
    with pytest.raises(DataError, match=r"row group 0 of a.parquet cannot be read; found .*9007199254740993"):
        read(tmp_path, found)


FAR_DATES = [day and datetime.fromisoformat(day) for day in ("9999-12-31", "2020-01-01", None, "0001-01-01")]


@pytest.mark.parametrize("store_schema", [True, False])
def test_int96_timestamps_of_any_year_keep_their_date(tmp_path, store_schema):
    when = pa.array(FAR_DATES, pa.timestamp("us"))
    nested = pa.array([[value] for value in FAR_DATES], pa.list_(pa.timestamp("us")))
    options = {"use_deprecated_int96_timestamps": True, "store_schema": store_schema}
    put(tmp_path / "a.parquet", {"text": ["x"] * 4, "when": when, "nested": nested}, **options)
    found = listing(tmp_path, ["when", "nested"])
    assert found.schema.field("when").type == pa.timestamp("us")
    rows = rows_of(read(tmp_path, found))
    assert [row["when"] for row in rows] == FAR_DATES
    assert [row["nested"] for row in rows] == [[value] for value in FAR_DATES]


def test_int96_timestamps_are_cut_to_microseconds_and_others_keep_their_nanoseconds(tmp_path):
    when = pa.array([1_500_000_000_000_001_999, -1], pa.timestamp("ns"))
    put(tmp_path / "a.parquet", {"text": ["x"] * 2, "when": when}, use_deprecated_int96_timestamps=True)
    (item,) = read(tmp_path, listing(tmp_path, ["when"]))
    assert item.batch.column("when").cast(pa.int64()).to_pylist() == [1_500_000_000_000_001, -1]
    put(tmp_path / "a.parquet", {"text": ["x"] * 2, "when": when})
    (item,) = read(tmp_path, listing(tmp_path, ["when"]))
    assert item.batch.column("when").equals(when)


def test_int96_timestamps_that_were_planned_as_nanoseconds_are_never_other_dates(tmp_path):
    # As planned by versions that read them so, and as unified with another file's nanoseconds.
    when = pa.array(FAR_DATES, pa.timestamp("us"))
    put(tmp_path / "a.parquet", {"text": ["x"] * 4, "when": when}, use_deprecated_int96_timestamps=True)
    put(tmp_path / "b.parquet", {"text": ["x"], "when": pa.array([1], pa.timestamp("ns"))})
    found = listing(tmp_path, ["when"])
    assert found.schema.field("when").type == pa.timestamp("ns")
    with pytest.raises(DataError, match=r"row group 0 of a.parquet cannot be read; found .*out of bounds timestamp"):
        read(tmp_path, found)


def test_batches_are_bounded_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_BATCH_BYTES", 10_000)
    sizes = [10, 9_000, 2_000, 50_000, 1, 1, 9_990, 30]
    put(tmp_path / "a.parquet", {"text": [os.urandom(n // 2).hex() for n in sizes]})
    batches = read(tmp_path, listing(tmp_path))
    assert sum(item.batch.num_rows for item in batches) == len(sizes)
    for item in batches:
        total = sum(len(text) for text in item.batch.column("text").to_pylist())
        assert item.batch.num_rows == 1 or total <= 10_000


def test_nested_columns_count_in_the_bytes_of_a_batch(tmp_path, monkeypatch):
    # Long lists first and many rows of nothing after them: the average of the row group tells nothing of them.
    monkeypatch.setattr(reader, "MAX_BATCH_BYTES", 100_000)
    lists = pa.array([range(5_000)] * 20 + [[1]] * 40_000, pa.list_(pa.int64()))
    put(tmp_path / "a.parquet", {"text": ["x"] * len(lists), "v": lists})
    batches = read(tmp_path, listing(tmp_path, ["v"]), rows=(0, 40))
    assert sum(item.batch.num_rows for item in batches) == 40
    for item in batches:
        assert sum(len(value) for value in item.batch.column("v")) * 8 <= 100_000


def test_a_dictionary_that_stands_for_far_more_is_decoded_in_slices(tmp_path):
    # 1 MB in the dictionary page, used 600 times: 600 MB if it were decoded at once.
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 600, pa.int32()), pa.array(["x" * 1_000_000]))
    put(tmp_path / "a.parquet", {"text": text}, dictionary_pagesize_limit=1 << 30, store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    found = listing(tmp_path)
    before, most, rows = pa.total_allocated_bytes(), 0, 0
    for item in read_shard(tmp_path, found.fragments[0], 0, 600, schema=found.schema, text_column="text"):
        rows += item.batch.num_rows
        most = max(most, pa.total_allocated_bytes() - before)
        assert item.batch.nbytes <= 33 << 20
    assert rows == 600
    assert most < 128 << 20


@pytest.mark.parametrize("use_dictionary", [False, True])
def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch, use_dictionary):
    # The writer starts with a dictionary, and gives it up after its first MiB.
    monkeypatch.setattr(reader, "MAX_DICTIONARY_BYTES", 4 << 20)
    texts = [os.urandom(512).hex() for _ in range(20_000)]
    put(tmp_path / "a.parquet", {"text": texts}, row_group_size=20_000, use_dictionary=use_dictionary)
    found = listing(tmp_path)
    before, most = pa.total_allocated_bytes(), 0
    fragment = found.fragments[0]
    for _ in read_shard(tmp_path, fragment, 0, 20_000, schema=found.schema, text_column="text", batch_rows=256):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 8 << 20


def test_a_changed_file_is_a_conflict_that_shows_both_identities(numbered):
    found = listing(numbered)
    old = found.fragments[0]
    put(numbered / "a.parquet", {"text": ["other"] * 1000})
    message = (
        f"source file a.parquet changed after the run was planned; expected {old.size_bytes} bytes, "
        rf"footer {old.footer_sha256[:12]}; found \d+ bytes, footer [0-9a-f]+"
    )
    with pytest.raises(ConflictError, match=message):
        read(numbered, found)


def test_a_deleted_file_is_a_conflict(numbered):
    found = listing(numbered)
    (numbered / "a.parquet").unlink()
    with pytest.raises(ConflictError, match=r"a.parquet changed after .*; found no such file"):
        read(numbered, found, on_bad_rows="error-rows")


def test_a_copy_of_the_same_bytes_is_the_same_file(numbered):
    found = listing(numbered)
    content = (numbered / "a.parquet").read_bytes()
    (numbered / "a.parquet").unlink()
    (numbered / "a.parquet").write_bytes(content)
    assert len(rows_of(read(numbered, found))) == 1000


def test_a_file_changed_in_place_while_it_is_read_is_a_conflict(numbered):
    found = listing(numbered)
    rows = read_shard(numbered, found.fragments[0], 0, 1000, schema=found.schema, text_column="text")
    next(rows)
    with (numbered / "a.parquet").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ConflictError, match="changed after the run was planned"):
        list(rows)


def pages_of(path):
    """Byte range of the pages, first to last, of each row group's text column."""
    metadata = pq.read_metadata(path)
    ranges = []
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group).column(0)
        ranges.append((chunk.data_page_offset, chunk.total_compressed_size))
    return ranges


@pytest.fixture
def damaged(tmp_path):
    """Four row groups of 100 rows; the second one's page is damaged."""
    texts = [f"{i}:" + os.urandom(40).hex() for i in range(400)]
    path = put(
        tmp_path / "a.parquet", {"text": texts}, row_group_size=100, use_dictionary=False, write_page_checksum=True
    )
    # The digest in a fragment covers the last 64 KiB only, so it is taken after the damage here.
    data = bytearray(path.read_bytes())
    start, size = pages_of(path)[1]
    data[start + size // 2] ^= 0x10
    path.write_bytes(data)
    return tmp_path, texts


def test_a_damaged_row_group_ends_the_shard_and_is_named(damaged):
    root, _ = damaged
    message = r"row group 1 of a.parquet cannot be read; found .*CRC.*; repair .* on_bad_rows: error-rows"
    with pytest.raises(DataError, match=message):
        read(root, listing(root))


def test_a_damaged_row_group_becomes_error_rows_and_the_others_are_exact(damaged):
    root, texts = damaged
    batches = read(root, listing(root), on_bad_rows="error-rows", batch_rows=64)
    position = 0
    for item in batches:
        assert item.row_start == position
        stop = position + item.batch.num_rows
        in_bad_group = 100 <= position < 200
        expected = [None] * item.batch.num_rows if in_bad_group else texts[position:stop]
        assert item.batch.column("text").to_pylist() == expected
        assert item.error.startswith("row group 1 of a.parquet cannot be read: ") == in_bad_group
        assert item.batch.num_rows <= 64
        position = stop
    assert position == 400


def test_a_shard_beside_the_damage_is_not_affected(damaged):
    root, texts = damaged
    assert [row["text"] for row in rows_of(read(root, listing(root), rows=(0, 100)))] == texts[:100]
    assert [row["text"] for row in rows_of(read(root, listing(root), rows=(210, 400)))] == texts[210:]


def test_a_fault_that_passes_is_retried_once(numbered, monkeypatch):
    real = reader.pq.ParquetFile.iter_batches
    calls = []

    def flaky(self, **kwargs):
        if isinstance(kwargs["row_groups"], list):  # reading, not probing the footer
            calls.append(kwargs["row_groups"])
        for number, batch in enumerate(real(self, **kwargs)):
            if len(calls) == 2 and number == 1:
                raise OSError(5, "Input/output error")
            yield batch

    found = listing(numbered)
    monkeypatch.setattr(reader.pq.ParquetFile, "iter_batches", flaky)
    batches = read(numbered, found, batch_rows=100)
    assert rows_of(batches) == [{"text": f"t{i}"} for i in range(1000)]
    assert calls == [[0], [1], [1], [2], [3]]


def test_a_row_group_that_ends_early_is_never_taken_for_whole(numbered, monkeypatch):
    real = reader.pq.ParquetFile.iter_batches

    def short(self, **kwargs):
        yield from list(real(self, **kwargs))[:-1]

    found = listing(numbered)
    monkeypatch.setattr(reader.pq.ParquetFile, "iter_batches", short)
    with pytest.raises(DataError, match=r"row group 0 of a.parquet cannot be read; found .* ends 100 rows early"):
        read(numbered, found, batch_rows=100)


@pytest.mark.parametrize("use_dictionary", [True, False])
@pytest.mark.parametrize("checksum", [True, False])
def test_bit_flips_in_pages_never_crash_and_never_lose_rows(tmp_path, use_dictionary, checksum):
    texts = [f"{i % 40}:" + "abc" * (i % 17) for i in range(400)]
    options = {"use_dictionary": use_dictionary, "write_page_checksum": checksum, "compression": "zstd"}
    path = put(tmp_path / "a.parquet", {"text": texts}, row_group_size=100, data_page_size=256, **options)
    whole = path.read_bytes()
    pages_stop = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    generator = random.Random(26)
    errors = 0
    for _ in range(50):
        data = bytearray(whole)
        data[generator.randrange(4, pages_stop)] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        batches = read(tmp_path, listing(tmp_path), on_bad_rows="error-rows")
        assert sum(item.batch.num_rows for item in batches) == 400
        errors += any(item.error for item in batches)
        for item in batches:
            stop = item.row_start + item.batch.num_rows
            if checksum and not item.error:
                assert item.batch.column("text").to_pylist() == texts[item.row_start : stop]
    assert errors > (30 if checksum else 0)


texts = st.lists(st.none() | st.text(max_size=12), max_size=60)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=texts, group=st.integers(1, 20), data=st.data())
def test_any_range_of_any_table_comes_back(tmp_path, values, group, data):
    put(tmp_path / "a.parquet", {"text": pa.array(values, pa.string())}, row_group_size=group)
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    batches = read(tmp_path, listing(tmp_path), rows=(start, stop), batch_rows=data.draw(st.integers(1, 9)))
    assert [row["text"] for row in rows_of(batches)] == values[start:stop]
