from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from engine_samples import LABELS, random_texts, string_array

import distilbatch
from distilbatch import Annotator, schema
from distilbatch.errors import CheckpointError, ConfigError

TEXTS = ["bada kego", None, "", "limo " * 100, "ra\ud800se"]
STATUSES = ["ok", "null", "empty", "truncated", "repaired"]


@pytest.fixture(scope="module")
def annotator(checkpoint: Path) -> Annotator:
    return Annotator(model=checkpoint, device="cpu")


def assert_close(found, expected) -> None:
    """Equal labels, and scores as close as the batch they were computed in lets them be."""
    assert [item["label"] for item in found] == [item["label"] for item in expected]
    assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected], abs=1e-5)


def test_texts_give_a_prediction_each_in_their_order(annotator):
    texts = random_texts(300)
    found = annotator(texts)
    assert len(found) == 300
    assert all(set(item) == {"label", "score"} and item["label"] in LABELS for item in found)
    for row in (0, 150, 299):
        assert_close(annotator([texts[row]]), [found[row]])


def test_where_there_is_nothing_to_label_the_prediction_is_none(annotator):
    assert [item is None for item in annotator(TEXTS)] == [False, True, True, False, False]


def test_more_texts_than_a_buffer_holds_keep_their_order(annotator):
    texts = ["bada", "kego limo"] * 2500
    found = annotator(texts)
    assert len(found) == 5000
    assert_close(found[4998:], found[:2])


def test_tuples_and_empty_lists_are_lists_of_texts(annotator):
    assert annotator(tuple(TEXTS)) == annotator(TEXTS)
    assert annotator([]) == []


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()],
    ids=["string", "large", "bytes", "large bytes"],
)
def test_a_record_batch_comes_back_with_the_predictions(annotator, kind):
    batch = pa.record_batch({"id": [1, 2, 3], "text": pa.array(["bada", None, "kego"], kind)})
    found = annotator(batch)
    assert isinstance(found, pa.RecordBatch)
    assert found.schema.names == ["id", "text", "prediction", "_row"]
    assert found.select(["id", "text"]).equals(batch)
    assert found.column("prediction").to_pylist() == annotator(["bada", None, "kego"])
    rows = found.column("_row")
    assert rows.type == schema.ROW_TYPE
    assert rows.field("status").to_pylist() == ["ok", "null", "ok"]
    assert rows.field("source_row").to_pylist() == [0, 1, 2]
    assert rows.field("source_file").null_count == 3


def test_an_empty_record_batch_comes_back_empty_with_the_columns(annotator):
    found = annotator(pa.record_batch({"text": pa.array([], pa.string())}))
    assert (found.num_rows, found.schema.names) == (0, ["text", "prediction", "_row"])


def test_a_table_comes_back_whatever_its_chunks(annotator):
    texts = random_texts(20)
    chunks = pa.chunked_array([texts[:7], [], texts[7:]], pa.string())
    found = annotator(pa.table({"body": chunks}), text_column="body")
    assert isinstance(found, pa.Table)
    assert_close(found.column("prediction").to_pylist(), annotator(texts))
    assert found.column("_row").combine_chunks().field("source_row").to_pylist() == list(range(20))


def test_invalid_bytes_in_a_string_column_are_repaired(annotator):
    found = annotator(pa.table({"text": string_array([b"bada \xff", b"kego"])}))
    assert found.column("_row").combine_chunks().field("status").to_pylist() == ["repaired", "ok"]


@pytest.mark.parametrize("missing", [None, math.nan, pd.NA, pd.NaT], ids=repr)
def test_a_frame_comes_back_with_flat_columns_and_its_index(annotator, missing):
    texts = pd.Series(["bada", missing, "kego"], dtype=object, index=[7, 8, 7])
    frame = pd.DataFrame({"text": texts, "n": [1, 2, 3]})
    found = annotator(frame)
    assert list(found.columns) == ["text", "n", "prediction_label", "prediction_score", "prediction_status"]
    assert list(found.index) == [7, 8, 7]
    first, _, last = annotator(["bada", None, "kego"])
    assert found["prediction_label"].tolist()[::2] == [first["label"], last["label"]]
    assert pd.isna(found["prediction_label"].iloc[1])
    assert found["prediction_score"].tolist()[::2] == [first["score"], last["score"]]
    assert found["prediction_status"].tolist() == ["ok", "null", "ok"]
    assert list(frame.columns) == ["text", "n"]  # the caller's own frame is left alone


@pytest.mark.parametrize("dtype", ["str", "string", "category", object])
def test_a_frames_text_may_be_stored_in_any_way(annotator, dtype):
    frame = pd.DataFrame({"text": pd.Series(["bada", None, "bada"], dtype=dtype)})
    assert annotator(frame)["prediction_status"].tolist() == ["ok", "null", "ok"]


def test_an_empty_frame_comes_back_empty_with_the_columns(annotator):
    found = annotator(pd.DataFrame({"text": pd.Series([], dtype=object)}))
    assert found.empty
    assert "prediction_label" in found.columns


def test_top_k_lists_classes_with_their_scores(checkpoint):
    (found,) = Annotator(model=checkpoint, device="cpu", top_k=2)(["bada"])
    assert found["scores"][0]["label"] == found["label"]
    assert len(found["scores"]) == 2
    frame = Annotator(model=checkpoint, device="cpu", top_k=2, name="topic")(pd.DataFrame({"text": ["bada"]}))
    assert frame["topic_scores"].iloc[0] == found["scores"]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ("bada", "expected a list of texts, .*found str; put a single text into a list"),
        (b"bada", "found bytes"),
        ({"text": ["bada"]}, "found dict"),
        (None, "found NoneType"),
        (["bada", 3], r"documents\[1\]; expected a text or None; found int"),
        (["bada", b"kego"], r"documents\[1\]; expected a text or None; found bytes"),
        ([math.nan], r"documents\[0\]; expected a text or None; found float"),
        (pa.table({"body": ["bada"]}), r"text_column; expected one of \['body'\]; found 'text'"),
        (pa.table({"text": [1]}), "column 'text'; expected string or binary; found int64"),
        (pa.table({"text": ["bada"], "_row": [1]}), r"no columns named \['prediction', '_row'\]; found \['_row'\]"),
        (pd.DataFrame({"text": ["bada"], "prediction_status": [1]}), "pass another name="),
        (pd.DataFrame({"body": ["bada"]}), "text_column; expected one of"),
        (pd.DataFrame({"text": [1.5]}), r"documents\[0\]; expected a text or None; found float"),
        (pd.DataFrame({"text": [["bada", "kego"]]}), r"documents\[0\]; expected a text or None; found list"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_labelled_is_refused_with_its_place(annotator, documents, message):
    with pytest.raises(ConfigError, match=message):
        annotator(documents)


def test_two_columns_of_one_name_are_refused(annotator):
    frame = pd.DataFrame([["bada", "kego"]], columns=["text", "text"])
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    for documents in (frame, table):
        with pytest.raises(ConfigError, match="text_column; expected one column named 'text'; found 2"):
            annotator(documents)


def test_another_task_is_refused_by_name(checkpoint):
    with pytest.raises(ConfigError, match="task; expected text-classification; found 'translation'"):
        Annotator("translation", model=checkpoint)


def test_a_missing_checkpoint_is_refused_by_its_path(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        Annotator(model=tmp_path / "nowhere")


def test_it_is_a_public_name():
    assert distilbatch.Annotator is Annotator
