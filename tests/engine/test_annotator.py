from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from engine_samples import LABELS, random_texts, string_array, write_checkpoint

import distilbatch
from distilbatch import Annotator, schema
from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.model.modeling import DistilBertForMultipleChoice

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


KINDS = [
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(),
    pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int64(), pa.large_string()), pa.json_(),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
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
        ("bada", "expected a list of texts or dicts, .*found str; put a single text into a list"),
        (b"bada", "found bytes"),
        ({"text": ["bada"]}, "found dict"),
        (None, "found NoneType"),
        (["bada", 3], r"documents\[1\]; expected a text or None; found int"),
        (["bada", b"kego"], r"documents\[1\]; expected a text or None; found bytes"),
        ([math.nan], r"documents\[0\]; expected a text or None; found float"),
        (pa.table({"body": ["bada"]}), r"documents; expected a column 'text'; found the columns \['body'\]"),
        (pa.table({"text": [1]}), "column 'text'; expected text; found int64"),
        (pa.table({"text": ["bada"], "_row": [1]}), r"no columns named \['prediction', '_row'\]; found \['_row'\]"),
        (pd.DataFrame({"text": ["bada"], "prediction_status": [1]}), "pass another name="),
        (pd.DataFrame({"body": ["bada"]}), "documents; expected a column 'text'"),
        (pd.DataFrame({"text": [1.5]}), r"text\[0\]; expected a text or None; found float"),
        (pd.DataFrame({"text": [["bada", "kego"]]}), "column 'text'; expected text; found large_list"),
        (pd.DataFrame({"text": [["bada"], "kego"]}), r"text\[1\]; expected a list of texts or None; found str"),
        ([["bada", "kego"]], "column 'text'; expected text; found large_list"),
        ([{"text": "bada"}, None], r"documents\[1\]; expected a dict; found NoneType"),
        ([{"text": 3}], r"text\[0\]; expected a text or None; found int"),
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
        with pytest.raises(ConfigError, match="documents; expected one column named 'text'; found 2"):
            annotator(documents)


def test_another_task_is_refused_by_name(checkpoint):
    with pytest.raises(ConfigError, match=r"task; expected .* or text-classification or .*; found 'translation'"):
        Annotator("translation", model=checkpoint)


def test_a_missing_checkpoint_is_refused_by_its_path(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        Annotator(model=tmp_path / "nowhere")


# --- Tasks that read several columns, or lists -----------------------------------------------------------------------


def test_a_pair_is_read_from_dicts_tables_and_frames_alike(checkpoint):
    annotator = Annotator(model=checkpoint, device="cpu", text_pair="note")
    rows = [{"text": "bada", "note": "kego limo"}, {"text": None, "note": "kego"}, {"text": "bada", "note": "nupi"}]
    table = pa.Table.from_pylist(rows)
    found = annotator(rows)
    assert [item is None for item in found] == [False, True, False]
    assert found[0]["score"] != found[2]["score"]  # the second text counts
    assert annotator(table)["prediction"].to_pylist() == found
    frame = annotator(pd.DataFrame(rows).rename(columns={"text": "body"}), text_column="body")
    assert frame["prediction_score"].tolist()[::2] == [found[0]["score"], found[2]["score"]]
    assert annotator([{"text": "bada"}]) == [None]  # the second text is missing: an error row
    assert annotator([]) == []


def test_values_alone_are_refused_where_a_row_has_several(checkpoint):
    annotator = Annotator(model=checkpoint, device="cpu", text_pair="note")
    with pytest.raises(ConfigError, match="documents; expected dicts with text, note; found single values"):
        annotator(["bada"])
    with pytest.raises(ConfigError, match=r"expected a column 'note'; found the columns \['text'\]"):
        annotator(pa.table({"text": ["bada"]}))


def test_lists_of_choices_are_read_from_dicts_tables_and_frames_alike(tmp_path):
    folder = write_checkpoint(tmp_path / "choices", kind=DistilBertForMultipleChoice)
    annotator = Annotator("multiple-choice", model=folder, device="cpu", choices=("options",))
    options = [["kego", "limo nupi"], ("bada", "kego"), np.array(["ra\ud800se", "mopi", "zu"], dtype=object)]
    rows = [{"text": "bada", "options": each} for each in options]
    found = annotator(rows)
    assert [len(item["scores"]) for item in found] == [2, 2, 3]
    texts = [[text.replace("\ud800", "\ufffd" * 3) for text in each] for each in options]
    table = annotator(pa.table({"text": ["bada"] * 3, "options": texts}))
    assert table["prediction"].to_pylist() == found
    assert annotator(pd.DataFrame(rows))["prediction_choice"].tolist() == [item["choice"] for item in found]
    with pytest.raises(ConfigError, match=r"options\[0\]; expected a list of texts or None; found list"):
        annotator([{"text": "bada", "options": ["kego", 3]}])
    with pytest.raises(ConfigError, match="column 'options'; expected lists of texts; found large_binary"):
        annotator([{"text": "bada", "options": "kego"}])


LISTS_OF_TEXTS = [
    pa.list_(pa.string()), pa.large_list(pa.string_view()), pa.list_(pa.string(), 2), pa.list_view(pa.binary_view()),
    pa.large_list_view(pa.string()), pa.list_(pa.dictionary(pa.int8(), pa.string())),
]  # fmt: skip


@pytest.mark.parametrize("kind", LISTS_OF_TEXTS, ids=str)
def test_lists_of_choices_may_be_stored_in_any_way(tmp_path, kind):
    folder = write_checkpoint(tmp_path / "choices", kind=DistilBertForMultipleChoice)
    annotator = Annotator("multiple-choice", model=folder, device="cpu", choices=("options",))
    options = [["kego", "limo nupi"], None, ["bada", "kego"]]
    found = annotator(pa.table({"text": ["bada"] * 3, "options": pa.array(options, kind)}))
    assert (
        found["prediction"].to_pylist()
        == annotator(pa.table({"text": ["bada"] * 3, "options": options}))["prediction"].to_pylist()
    )
    assert found["_row"].combine_chunks().field("status").to_pylist() == ["ok", "error", "ok"]


@pytest.mark.parametrize("options", [{"topk": 2}, {"top_k": 0}, {"threshold": "high"}, {"stride": -1}])
def test_a_wrong_option_is_refused_by_its_name(checkpoint, options):
    with pytest.raises(ConfigError, match=f"text-classification: {next(iter(options))}: "):
        Annotator(model=checkpoint, **options)


def test_it_is_a_public_name():
    assert distilbatch.Annotator is Annotator
