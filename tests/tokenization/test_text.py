"""The text policy against every kind of cell that a text column has been seen to hold."""

from __future__ import annotations

import time
import tracemalloc

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilbatch.records import Documents, RowStatus
from distilbatch.tokenization import read_texts

OK, CUT, REPAIRED = RowStatus.OK, RowStatus.TRUNCATED, RowStatus.REPAIRED
NULL, EMPTY = RowStatus.NULL, RowStatus.EMPTY
TYPES = [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()]
ZALGO = "Z" + "\u0351\u036b\u0343\u036a\u0302" * 40
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"


def column(values: list[bytes | None], kind: pa.DataType) -> pa.Array:
    """Put raw bytes into a column of any type, unchecked, as a Parquet reader does."""
    large = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    raw = pa.array(values, pa.large_binary() if large else pa.binary())
    return pa.Array.from_buffers(kind, len(raw), raw.buffers(), offset=raw.offset)


def read_one(data: bytes | None, kind: pa.DataType = TYPES[0], **limits: int) -> tuple[str | None, RowStatus]:
    documents = read_texts(column([data], kind), **limits)
    return documents.texts[0], documents.statuses[0]


def check_invariants(documents: Documents, num_rows: int) -> None:
    assert len(documents.texts) == len(documents.statuses) == len(documents.errors) == num_rows
    for text, status in zip(documents.texts, documents.statuses, strict=True):
        assert (text is None) == (status in {NULL, EMPTY})
        assert text is None or text.strip()
        assert text is None or text.encode("utf-8").decode("utf-8") == text


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize(
    ("data", "text", "status"),
    [
        (None, None, NULL),
        (b"", None, EMPTY),
        (b" \t\r\n\x0b\x0c", None, EMPTY),
        ("\u00a0\u2003\u3000".encode(), None, EMPTY),
        (b"plain", "plain", OK),
        (b"  kept as it is \n", "  kept as it is \n", OK),
        (b"\x00", "\x00", OK),  # no token comes of it: the tokenizer's business, not the policy's
        (b"a\x00b", "a\x00b", OK),
        ("\ufeffmark".encode(), "\ufeffmark", OK),
        (
            "\u0645\u0631\u062d\u0628\u0627 \u202eabc\u202c".encode(),
            "\u0645\u0631\u062d\u0628\u0627 \u202eabc\u202c",
            OK,
        ),
        (ZALGO.encode(), ZALGO, OK),
        (FAMILY.encode(), FAMILY, OK),
        (b"a\xffb", "a\ufffdb", REPAIRED),
        (b"caf\xe9", "caf\ufffd", REPAIRED),  # Latin-1
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd", REPAIRED),  # a surrogate is not UTF-8
        (b"\xc0\xaf", "\ufffd\ufffd", REPAIRED),  # an overlong slash neither
        (b"\xf5\x80\x80\x80x", "\ufffd\ufffd\ufffd\ufffdx", REPAIRED),  # nor what is above U+10FFFF
        ("\u732b".encode()[:2], "\ufffd", REPAIRED),
    ],
    ids=repr,
)
def test_each_kind_of_cell_gives_one_text_and_status(kind, data, text, status):
    assert read_one(data, kind) == (text, status)


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_a_bad_cell_leaves_its_neighbours_alone(kind):
    documents = read_texts(column([b"one", None, b"\xff", b" ", "zw\u00f6lf".encode()], kind))
    assert documents.texts == ["one", None, "\ufffd", None, "zw\u00f6lf"]
    assert documents.statuses == [OK, NULL, REPAIRED, EMPTY, OK]
    assert documents.errors == [None] * 5


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("extra", [b"clean", b"\xfe", b"y" * 3000], ids=["clean", "invalid", "long"])
def test_a_slice_of_a_column_is_read_from_its_own_offset(kind, extra):
    values = [b"\xff first", None, b"two", extra, b"", None, b"last \xff"]
    documents = read_texts(column(values, kind).slice(1, 5), max_doc_bytes=2048)
    expected = [read_one(value, kind, max_doc_bytes=2048) for value in values[1:6]]
    assert list(zip(documents.texts, documents.statuses, strict=True)) == expected


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_a_column_without_rows_gives_no_documents(kind):
    assert read_texts(column([], kind)) == Documents([], [], [])
    assert read_texts(column([b"a"], kind).slice(1)) == Documents([], [], [])


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("character", ["x", "\u00e9", "\u732b", "\U0001f600"])
def test_a_cut_at_any_byte_keeps_whole_characters(kind, character):
    text = f"abc{character}def"
    data = text.encode()
    for limit in range(1, len(data) + 2):
        read, status = read_one(data, kind, max_doc_bytes=limit)
        assert read is not None
        assert text.startswith(read)
        assert limit - 3 <= len(read.encode()) <= limit or read == text
        assert status is (OK if limit >= len(data) else CUT)
        # Nothing that fits is thrown away.
        assert read == text or len((read + text[len(read)]).encode()) > limit


def test_a_document_of_exactly_the_limit_is_whole():
    assert read_one(b"x" * 1024, max_doc_bytes=1024) == ("x" * 1024, OK)
    assert read_one(b"x" * 1025, max_doc_bytes=1024) == ("x" * 1024, CUT)


def test_a_cut_that_leaves_only_blanks_or_nothing_is_empty():
    assert read_one(b" " * 5000 + b"text", max_doc_bytes=1024) == (None, EMPTY)
    assert read_one("\U0001f600".encode() * 2, max_doc_bytes=3) == (None, EMPTY)


def test_invalid_bytes_in_the_part_that_is_kept_are_repaired():
    assert read_one(b"\xffab" + b"c" * 5000, max_doc_bytes=5) == ("\ufffdabcc", REPAIRED)
    assert read_one(b"ab" + b"c" * 5000 + b"\xff", max_doc_bytes=4) == ("abcc", CUT)
    assert read_one(b"\x80" * 9, max_doc_bytes=5) == ("\ufffd" * 5, REPAIRED)


def test_a_long_document_is_cut_without_being_decoded_whole():
    cell = column([("\u732b" * 11_000_000).encode(), b"short"], pa.string())  # 33 MB
    tracemalloc.start()
    documents = read_texts(cell)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert documents.statuses == [CUT, OK]
    assert documents.texts == ["\u732b" * ((1 << 20) // 3), "short"]
    assert peak < 8 << 20


def test_ten_megabytes_are_read_whole_when_the_limit_allows_it():
    text = "0123456789" * (1 << 20)
    assert read_one(text.encode(), max_doc_bytes=16 << 20) == (text, OK)


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.one_of(st.none(), st.binary(max_size=24), st.text(max_size=12).map(str.encode)), max_size=12),
    kind=st.sampled_from(TYPES),
    limit=st.integers(1, 24),
    data=st.data(),
)
def test_random_bytes_never_raise_and_rows_do_not_depend_on_each_other(values, kind, limit, data):
    start = data.draw(st.integers(0, len(values)))
    documents = read_texts(column(values, kind).slice(start), max_doc_bytes=limit)
    check_invariants(documents, len(values) - start)
    alone = [read_one(value, kind, max_doc_bytes=limit) for value in values[start:]]
    assert list(zip(documents.texts, documents.statuses, strict=True)) == alone


@settings(max_examples=150, deadline=None)
@given(text=st.text(min_size=1, max_size=40), limit=st.integers(1, 80))
def test_a_valid_text_comes_out_as_a_prefix_of_itself(text, limit):
    read, status = read_one(text.encode(), max_doc_bytes=limit)
    if status in {OK, CUT}:
        assert read is not None
        assert text.startswith(read)
        assert (status is OK) == (read == text)
    else:
        assert status is EMPTY


@pytest.mark.parametrize(
    "values",
    [
        [f"row {i} of some text" for i in range(100_000)],
        [None] * 100_000,
        ["a text"] * 99_999 + ["y" * (2 << 20)],
    ],
    ids=["short", "null", "one long"],
)
def test_a_hundred_thousand_rows_take_less_than_half_a_second(values):
    rows = pa.array(values, pa.string())
    seconds = []
    for _ in range(3):
        start = time.thread_time()
        read_texts(rows)
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 0.5
