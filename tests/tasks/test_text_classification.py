"""Text classification against the Hugging Face pipeline on the same logits and on the same checkpoint."""

from __future__ import annotations

import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from distilbatch.errors import ConfigError
from distilbatch.records import Decoded, HeadOutput, Sequences, TokenBatch
from distilbatch.tasks.base import NOT_FINITE, OUT_OF_MEMORY, Asked
from distilbatch.tasks.classes import apply_function
from distilbatch.tasks.text_classification import FUNCTIONS, TextClassificationOptions, TextClassificationTask

PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "green", "blue", "fish"]


def labels_of(count: int) -> list[str]:
    return [f"class {i}" for i in range(count)]


def task_of(num_labels: int, *, problem_type: str | None = None, **options: object) -> TextClassificationTask:
    return TextClassificationTask(
        labels_of(num_labels), TextClassificationOptions(**options), problem_type=problem_type
    )


def asked_of(rows: list[int], *, num_rows: int) -> Asked:
    """One document of three tokens for each of these rows; the other rows have no text."""
    texts = ["a" if row in rows else None for row in range(num_rows)]
    tokens = TokenBatch(
        input_ids=np.full(3 * len(rows), 7, dtype=np.int32),
        cu_seqlens=3 * np.arange(len(rows) + 1, dtype=np.int64),
        sequences=np.arange(len(rows), dtype=np.int64),
        windows=np.zeros(len(rows), dtype=np.int32),
        truncated=np.zeros(len(rows), dtype=np.bool_),
    )
    sequences = Sequences(["a"] * len(rows), None, np.array(rows, dtype=np.int64))
    return Asked({"text": texts}, sequences, tokens, num_rows)


def decode_rows(
    task: TextClassificationTask, logits: np.ndarray, rows: list[int], *, num_rows: int, lost: tuple[int, ...] = ()
) -> Decoded:
    """Decode logits of these rows; the documents ``lost`` were too large for the memory."""
    kept = np.setdiff1d(np.arange(len(rows)), lost)
    output = HeadOutput(positions=kept, values=np.asarray(logits, dtype=np.float32)[kept])
    decoded = task.decode(output, asked_of(rows, num_rows=num_rows))
    decoded.column.validate(full=True)
    assert decoded.column.type == task.type
    return decoded


def decode(task: TextClassificationTask, logits: np.ndarray) -> list[dict]:
    decoded = decode_rows(task, logits, list(range(len(logits))), num_rows=len(logits))
    assert decoded.errors == {}
    return decoded.column.to_pylist()


class Reference:
    """The pipeline of ``transformers`` on a random checkpoint."""

    def __init__(self, num_labels: int, problem_type: str | None) -> None:
        torch.manual_seed(num_labels)
        config = transformers.DistilBertConfig(
            vocab_size=len(WORDS),
            max_position_embeddings=16,
            n_layers=1,
            n_heads=2,
            dim=8,
            hidden_dim=8,
            initializer_range=1.0,
            id2label=dict(enumerate(labels_of(num_labels))),
            label2id={label: i for i, label in enumerate(labels_of(num_labels))},
        )
        config.problem_type = problem_type  # set late: the reference refuses a single label in its constructor only
        self.model = transformers.DistilBertForSequenceClassification(config).eval()
        self.tokenizer = transformers.DistilBertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
        self.pipeline = transformers.TextClassificationPipeline(
            model=self.model, tokenizer=self.tokenizer, device=torch.device("cpu")
        )

    def postprocess(self, logits: np.ndarray, **options: object) -> list[list[dict]]:
        """Ranked classes of each row."""
        return [
            self.pipeline.postprocess({"logits": torch.from_numpy(row[None])}, _legacy=False, **options)
            for row in np.asarray(logits, dtype=np.float32)
        ]


@pytest.fixture(scope="module")
def reference():
    made: dict[tuple[int, str | None], Reference] = {}

    def make(num_labels: int, problem_type: str | None) -> Reference:
        key = (num_labels, problem_type)
        if key not in made:
            made[key] = Reference(*key)
        return made[key]

    return make


def assert_ranked_alike(found: list[dict], expected: list[dict]) -> None:
    assert [item["label"] for item in found] == [item["label"] for item in expected]
    np.testing.assert_allclose(
        [item["score"] for item in found], [item["score"] for item in expected], atol=1e-6, rtol=1e-6
    )


def assert_equal_to_reference(reference, task_options: dict, logits: np.ndarray, top_k: int | None) -> None:
    num_labels, problem_type = logits.shape[1], task_options["problem_type"]
    function = task_options["function_to_apply"]
    task = task_of(num_labels, top_k=top_k, **task_options)
    with np.errstate(over="ignore"):  # the reference's sigmoid overflows where ours does not warn
        ranked = reference(num_labels, problem_type).postprocess(logits, top_k=None, function_to_apply=function)
    for found, expected in zip(decode(task, logits), ranked, strict=True):
        assert_ranked_alike([found], expected[:1])
        if top_k is None:
            assert "scores" not in found
        else:
            assert_ranked_alike(found["scores"], expected[:top_k])


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
@pytest.mark.parametrize("function", [None, *FUNCTIONS])
@pytest.mark.parametrize(("num_labels", "top_k"), [(1, None), (1, 3), (2, 1), (5, None), (5, 1), (5, 3), (5, 99)])
def test_labels_and_scores_equal_the_pipelines_on_the_same_logits(reference, problem_type, function, num_labels, top_k):
    logits = np.random.default_rng(7).normal(scale=4.0, size=(20, num_labels)).astype(np.float32)
    options = {"problem_type": problem_type, "function_to_apply": function}
    assert_equal_to_reference(reference, options, logits, top_k)


@settings(max_examples=100, deadline=None)
@given(
    logits=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-95, 95, width=32)
    ),
    problem_type=st.sampled_from(PROBLEM_TYPES),
    function=st.sampled_from([None, *FUNCTIONS]),
    top_k=st.sampled_from([None, 1, 2, 6]),
)
def test_they_are_equal_for_extreme_and_tied_logits_too(reference, logits, problem_type, function, top_k):
    options = {"problem_type": problem_type, "function_to_apply": function}
    assert_equal_to_reference(reference, options, logits, top_k)


def test_very_unlikely_classes_keep_their_order_and_their_scores():
    logits = np.array([[-30.0, -17.5, -20.0, -17.0]], dtype=np.float32)
    task = task_of(4, problem_type="multi_label_classification", top_k=4)
    (row,) = decode(task, logits)
    assert [item["label"] for item in row["scores"]] == ["class 3", "class 1", "class 2", "class 0"]
    expected = 1 / (1 + np.exp(-logits[0][[3, 1, 2, 0]].astype(np.float64)))
    np.testing.assert_allclose([item["score"] for item in row["scores"]], expected, rtol=1e-5)


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
@pytest.mark.parametrize("num_labels", [1, 4])
def test_a_whole_checkpoint_gives_the_pipelines_labels(reference, problem_type, num_labels):
    made = reference(num_labels, problem_type)
    texts = ["red fish", "blue", "green green fish", "what"]
    with torch.no_grad():
        logits = np.concatenate(
            [made.model(**made.tokenizer(text, return_tensors="pt")).logits.numpy() for text in texts]
        )
    task = task_of(num_labels, problem_type=problem_type, top_k=num_labels)
    best = made.pipeline(texts)
    for found, ranked, first in zip(decode(task, logits), made.pipeline(texts, top_k=None), best, strict=True):
        assert_ranked_alike(found["scores"], ranked)
        assert_ranked_alike([found], [first])


def test_ties_go_to_the_class_that_comes_first():
    task = task_of(4, top_k=4)
    (row,) = decode(task, np.array([[1.0, 2.0, 2.0, 1.0]]))
    assert row["label"] == "class 1"
    assert [item["label"] for item in row["scores"]] == ["class 1", "class 2", "class 0", "class 3"]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("scale", [1.0, 1e4, 3e38])
def test_no_logit_is_too_large_for_a_function(function, scale):
    logits = np.array([[-scale, 0.0, scale], [scale, scale, scale], [-scale, -scale, -scale]], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = apply_function(logits / np.float32(2), function)
    assert scores.dtype == np.float32
    assert scores.shape == logits.shape
    assert np.isfinite(scores).all()
    if function != "none":
        assert ((scores >= 0) & (scores <= 1)).all()
    if function == "softmax":
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-6)


def test_functions_leave_the_logits_as_they_were():
    logits = np.array([[1.0, -2.0]], dtype=np.float32)
    for function in FUNCTIONS:
        apply_function(logits, function)
    assert logits.tolist() == [[1.0, -2.0]]


@pytest.mark.parametrize(
    ("threshold", "top_k", "expected"),
    [
        (0.5, None, ["class 1", "class 2"]),
        (0.5, 1, ["class 1"]),
        (0.0, None, ["class 1", "class 2", "class 0"]),
        (0.0, 2, ["class 1", "class 2"]),
        (0.999, None, []),
        (1.0, 3, []),
    ],
)
def test_a_threshold_lists_only_the_classes_that_reach_it(threshold, top_k, expected):
    task = task_of(3, problem_type="multi_label_classification", threshold=threshold, top_k=top_k)
    (row,) = decode(task, np.array([[-3.0, 2.0, 0.0]]))
    assert row["label"] == "class 1"  # the best one is named even when it is below
    assert [item["label"] for item in row["scores"]] == expected
    assert all(item["score"] >= threshold for item in row["scores"])


def test_thresholds_are_applied_row_by_row():
    task = task_of(2, function_to_apply="none", threshold=0.5)
    rows = decode(task, np.array([[0.6, 0.7], [0.1, 0.2], [0.9, 0.1], [0.5, 0.4999]]))
    assert [[item["label"] for item in row["scores"]] for row in rows] == [
        ["class 1", "class 0"],
        [],
        ["class 0"],
        ["class 0"],
    ]


@pytest.mark.parametrize("top_k", [None, 2])
def test_rows_without_a_document_are_null_and_the_others_find_their_place(top_k):
    logits = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9]], dtype=np.float32)
    decoded = decode_rows(task_of(3, top_k=top_k), logits, [1, 2, 4], num_rows=6)
    labels = [row and row["label"] for row in decoded.column.to_pylist()]
    assert labels == [None, "class 0", "class 1", None, "class 2", None]
    assert decoded.column.null_count == 3
    assert decoded.errors == {}


@pytest.mark.parametrize("num_rows", [0, 1, 7])
@pytest.mark.parametrize("top_k", [None, 1])
def test_no_documents_give_a_column_of_nulls(num_rows, top_k):
    decoded = decode_rows(task_of(3, top_k=top_k), np.empty((0, 3)), [], num_rows=num_rows)
    assert len(decoded.column) == decoded.column.null_count == num_rows
    assert decoded.errors == {}


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"threshold": 0.3}, {"top_k": 2, "threshold": 0.3}], ids=str)
def test_the_column_is_of_the_type_that_was_announced(options):
    task = task_of(4, **options)
    decoded = decode_rows(task, np.random.default_rng(0).normal(size=(5, 4)), list(range(5)), num_rows=8)
    assert decoded.column.type == task.type
    names = ["label", "score", "scores"] if options else ["label", "score"]
    assert [field.name for field in task.type] == names
    assert task.type.field("score").type == pa.float32()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"function_to_apply": "none"}], ids=str)
def test_a_document_without_a_finite_score_is_an_error_row_alone(options, value):
    # Minus infinity is a score of 0 to softmax and sigmoid; where it is the score itself, it is no number to write.
    logits = np.array([[0, 9, 0], [0, value, 0], [9, 0, 0]], dtype=np.float32)
    decoded = decode_rows(task_of(3, **options), logits, [0, 2, 3], num_rows=4)
    fine = value == -np.inf and options.get("function_to_apply") != "none"
    assert decoded.errors == ({} if fine else {2: NOT_FINITE})
    assert decoded.column.is_valid().to_pylist() == [True, False, fine, True]
    assert [row["label"] for row in decoded.column.to_pylist()[::3]] == ["class 1", "class 0"]


@pytest.mark.parametrize("lost", [(1,), (0, 1, 2)])
@pytest.mark.parametrize("top_k", [None, 2])
def test_documents_that_did_not_fit_into_memory_are_error_rows(top_k, lost):
    rows = [0, 2, 3]
    decoded = decode_rows(task_of(3, top_k=top_k), np.eye(3), rows, num_rows=5, lost=lost)
    assert decoded.errors == {rows[document]: OUT_OF_MEMORY for document in lost}
    valid = [row in rows and rows.index(row) not in lost for row in range(5)]
    assert decoded.column.is_valid().to_pylist() == valid


def test_impossible_options_are_refused_in_clear_words():
    with pytest.raises(ConfigError) as caught:
        task_of(2, function_to_apply="relu")
    assert str(caught.value) == "function_to_apply is unknown; expected none or sigmoid or softmax; found 'relu'"
    with pytest.raises(ConfigError, match=r"^reduction is unknown; expected mean or max or .*; found 'median'$"):
        task_of(2, reduction="median")
    with pytest.raises(ConfigError, match=r"^top_k is too small; expected at least 1; found 0$"):
        task_of(2, top_k=0)
