"""When two columns of predictions say the same, for the column of every task."""

from __future__ import annotations

import pyarrow as pa
import pytest

from distilbatch.engine.agreement import agreeing

LABEL = pa.struct([("label", pa.string()), ("score", pa.float32())])
CHOICE = pa.struct([("choice", pa.int32()), ("score", pa.float32())])
SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("score", pa.float32())])
ENTITY = pa.struct([("entity_group", pa.string()), *SPAN])
TOKEN = pa.struct([("token_str", pa.string()), ("token", pa.int32()), ("score", pa.float32())])


def label(name, score=0.5):
    return {"label": name, "score": score}


def span(start, end, score=0.5, **more):
    return {"start": start, "end": end, "score": score, **more}


def tokens(*ids):
    return [{"token_str": str(i), "token": i, "score": 0.1} for i in ids]


@pytest.mark.parametrize(
    ("kind", "exact", "found", "same"),
    [
        (LABEL, [label("a"), label("b")], [label("a", 0.6), label("a")], [True, False]),
        (LABEL, [label("a"), None, label("b")], [None, label("a"), label("b")], [False, True]),
        (LABEL, [label("x", 1.0), label("x", 200)], [label("x", 1.02), label("x", 201)], [False, True]),  # regression
        (CHOICE, [{"choice": 1, "score": 1}], [{"choice": 1, "score": 0.2}], [True]),
        (CHOICE, [{"choice": 1, "score": 1}], [{"choice": 0, "score": 1}], [False]),
        (pa.list_(SPAN), [[span(0, 3)], [span(0, 3)]], [[span(0, 3, 0.9)], [span(0, 4)]], [True, False]),
        (pa.list_(ENTITY), [[span(0, 3, entity_group="a")]], [[span(0, 3, entity_group="b")]], [False]),
        (pa.list_(ENTITY), [[]], [[span(0, 3, entity_group="b")]], [False]),
        (pa.list_(pa.list_(TOKEN)), [[tokens(1, 2)], [[]]], [[tokens(1, 3)], [[]]], [True, True]),
        (pa.list_(pa.list_(TOKEN)), [[tokens(1, 2), tokens(4)]], [[tokens(1, 2), tokens(5)]], [False]),
        (pa.list_(pa.float32(), 2), [[1.0, 0], [1, 0]], [[2.0, 0.01], [0, 1]], [True, False]),
        (pa.list_(pa.list_(pa.float32(), 2)), [[[1.0, 0], [0, 1]]], [[[1.0, 0]]], [False]),
        (pa.list_(pa.float16(), 2), [[0, 0]], [[0, 0]], [True]),
    ],
)
def test_what_counts_as_the_same(kind, exact, found, same):
    assert agreeing([pa.array(exact, kind)], [pa.array(found, kind)]).tolist() == same


def test_rows_that_no_head_annotates_do_not_count_and_every_head_must_agree():
    first = pa.array([label("a"), None, label("a"), None], LABEL)
    second = pa.array([{"choice": 0, "score": 1}, None, {"choice": 0, "score": 1}, {"choice": 0, "score": 1}], CHOICE)
    other = pa.array([{"choice": 0, "score": 1}, None, {"choice": 1, "score": 1}, {"choice": 0, "score": 1}], CHOICE)
    first_found = pa.array([label("a"), None, label("b"), None], LABEL)
    assert agreeing([first, second], [first_found, other]).tolist() == [True, False, True]
    both = pa.array([label("a"), None, label("c"), None], LABEL)
    assert agreeing([first, second], [both, second]).tolist() == [True, False, True]
