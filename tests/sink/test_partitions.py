"""A batch is split by partition values in first-seen order, and every value has one short text form."""

from __future__ import annotations

import datetime
import re

import pyarrow as pa
import pytest

from distilbatch.errors import ConfigError, DataError
from distilbatch.sink.partitions import check_partition_types, split


def parts(columns, by):
    return [(partition, rows.to_pylist()) for partition, rows in split(pa.record_batch(columns), by)]


def test_rows_keep_their_order_and_parts_are_first_seen_first():
    columns = {"n": [0, 1, 2, 3, 4], "k": ["b", "a", "b", None, "a"]}
    assert parts(columns, ["k"]) == [
        ((("k", "b"),), [{"n": 0}, {"n": 2}]),
        ((("k", "a"),), [{"n": 1}, {"n": 4}]),
        ((("k", None),), [{"n": 3}]),
    ]


def test_several_columns_in_the_order_asked_for():
    columns = {"a": [1, 1, 2, 2], "n": [0, 1, 2, 3], "b": [True, False, True, True]}
    assert parts(columns, ["b", "a"]) == [
        ((("b", "true"), ("a", "1")), [{"n": 0}]),
        ((("b", "false"), ("a", "1")), [{"n": 1}]),
        ((("b", "true"), ("a", "2")), [{"n": 2}, {"n": 3}]),
    ]


def test_no_partition_columns_give_one_part():
    assert parts({"n": [1, 2]}, []) == [((), [{"n": 1}, {"n": 2}])]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pa.array([7], pa.uint64()), "7"),
        (pa.array([datetime.date(2026, 11, 20)]), "2026-11-20"),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array(["../../etc"]), "../../etc"),
        (pa.array([""]), ""),
        (pa.nulls(1), None),
    ],
)
def test_text_forms(values, text):
    batch = pa.record_batch({"k": values, "n": [1]})
    check_partition_types(batch.schema, ["k"])
    assert [partition for partition, _ in split(batch, ["k"])] == [(("k", text),)]


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (["x"], "partition column 'x'; expected one output column; found columns f, n, b, l"),
        (["n", "n"], "partition column 'n'; expected one output column"),
        (["f"], "partition column 'f'; expected text, whole numbers, booleans or dates; found type double"),
        (["b"], "found type binary"),
        (["l" * 255], "expected values whose folder name has at most 255 bytes; found a value that needs 256"),
    ],
)
def test_columns_without_an_exact_text_form_are_refused(by, message):
    schema = pa.schema([("f", pa.float64()), ("n", pa.int64()), ("b", pa.binary()), ("l" * 255, pa.int64())])
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_partition_types(schema, by)


def test_at_least_one_column_has_to_stay():
    with pytest.raises(ConfigError, match="expected at least one column left for the files; found all columns"):
        check_partition_types(pa.schema([("a", pa.string())]), ["a"])


def test_a_value_that_is_too_long_for_a_folder_name_is_refused_before_publishing():
    with pytest.raises(ConfigError, match="at most 255 bytes; found a value that needs 302"):
        parts({"k": ["é" * 50], "n": [1]}, ["k"])


def test_a_value_that_is_not_utf8_is_refused():
    batch = {"k": pa.array([b"\xff"]).view(pa.string()), "n": [1]}
    with pytest.raises(DataError, match="partition column 'k'; expected UTF-8 text"):
        parts(batch, ["k"])
