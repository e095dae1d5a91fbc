"""Text pairs as the Hugging Face pipeline reads them, and long documents read in text windows, against a slow loop."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tiny_models import POSITIONS, load_annotator, load_heads, random_text, run_heads, write_model

from distilbatch.engine.spec import HeadSpec
from distilbatch.model.modeling import DistilBertForSequenceClassification
from distilbatch.records import HeadOutput, Sequences, TokenBatch
from distilbatch.tasks.base import NOT_FINITE, OUT_OF_MEMORY, Asked
from distilbatch.tasks.text_classification import NO_SECOND, TextClassificationOptions, TextClassificationTask
from distilbatch.tasks.text_windows import REDUCTIONS

LABELS = ("red", "green", "blue")
MAX_LENGTH = 16
ROOM = MAX_LENGTH - 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("windows") / "model"
    return write_model(DistilBertForSequenceClassification, folder, id2label=dict(enumerate(LABELS)))


@pytest.fixture(scope="module")
def pipeline(model: Path) -> transformers.TextClassificationPipeline:
    return transformers.pipeline("text-classification", model=str(model), device="cpu")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(8)
    return [random_text(rng, most) for most in (1, 3, 8, 12, 20, 40, 60) for _ in range(3)]


def spec(model: Path, *, pair: bool = False, **arguments: object) -> HeadSpec:
    columns = (("text", "text"), *((("text_pair", "reply"),) if pair else ()))
    return HeadSpec("topic", "text-classification", model, columns, **arguments)


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_pairs_are_read_as_the_pipeline_reads_them(model, pipeline, function):
    rng = random.Random(4)
    rows = [{"text": random_text(rng, 40), "reply": random_text(rng, 40)} for _ in range(40)]
    annotate = load_annotator("text-classification", model, text_pair="reply", top_k=3, function_to_apply=function)
    for row, found in zip(rows, annotate(rows), strict=True):
        expected = pipeline(
            {"text": row["text"], "text_pair": row["reply"]}, top_k=None, function_to_apply=function,
            truncation=True, max_length=POSITIONS,
        )  # fmt: skip
        assert [item["label"] for item in found["scores"]] == [item["label"] for item in expected]
        np.testing.assert_allclose(
            [item["score"] for item in found["scores"]], [item["score"] for item in expected], atol=1e-4
        )


def test_a_row_without_its_second_text_is_an_error(model):
    heads = load_heads(spec(model, pair=True, options={"pair": True}))
    result = run_heads(heads, {"text": ["a", "a", "a", None, "", "a"], "reply": ["b", None, " ", "b", "b", "\x01"]})
    message = f"topic: {NO_SECOND}"
    assert result.errors == [None, message, message, None, None, message]
    assert [value is None for value in result.columns[0].to_pylist()] == [False, *[True] * 5]
    alone = run_heads(heads, {"text": ["a"], "reply": ["\x01"]})
    assert (alone.errors, alone.columns[0].to_pylist()) == ([message], [None])


def windows_of(pipeline: transformers.TextClassificationPipeline, text: str, stride: int) -> list[tuple[list, tuple]]:
    """The token ids of every window, and its place in characters."""
    encoded = pipeline.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded.input_ids, encoded.offset_mapping
    start, found = 0, []
    while True:
        stop = min(start + ROOM, len(ids))
        found.append(([101, *ids[start:stop], 102], (offsets[start][0], offsets[stop - 1][1])))
        if stop == len(ids):
            return found
        start = stop - stride


def scores_of(pipeline: transformers.TextClassificationPipeline, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        return pipeline.model(torch.tensor([ids])).logits.softmax(-1)[0].numpy()


def reduce_slowly(scores: list[np.ndarray], lengths: list[int], reduction: str) -> list[float]:
    reduced = []
    for label in range(len(LABELS)):
        values = [float(window[label]) for window in scores]
        if reduction == "first":
            reduced.append(values[0])
        elif reduction == "max":
            reduced.append(max(values))
        elif reduction == "mean":
            reduced.append(sum(values) / len(values))
        else:
            reduced.append(sum(v * n for v, n in zip(values, lengths, strict=True)) / sum(lengths))
    return reduced


@pytest.mark.parametrize("stride", [0, 5])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_windows_are_reduced_and_listed_as_evidence(model, pipeline, texts, reduction, stride):
    options = {"top_k": 3, "reduction": reduction, "evidence": True}
    head = spec(model, max_length=MAX_LENGTH, stride=stride, options=options)
    result = run_heads(load_heads(head), {"text": [None, *texts, ""]})
    found = result.columns[0].to_pylist()
    assert found[0] is found[-1] is None
    assert not result.truncated.any()
    for text, value, num_windows, num_tokens in zip(
        texts, found[1:-1], result.num_windows[1:-1], result.num_tokens[1:-1], strict=True
    ):
        windows = windows_of(pipeline, text, stride)
        scores = [scores_of(pipeline, ids) for ids, _ in windows]
        lengths = [len(ids) for ids, _ in windows]
        assert (num_windows, num_tokens) == (len(windows), sum(lengths))
        expected = reduce_slowly(scores, lengths, reduction)
        ranked = sorted(zip(LABELS, expected, strict=True), key=lambda pair: -pair[1])
        assert [item["label"] for item in value["scores"]] == [label for label, _ in ranked]
        np.testing.assert_allclose(
            [item["score"] for item in value["scores"]], [score for _, score in ranked], atol=3e-5
        )
        assert (value["label"], value["score"]) == (value["scores"][0]["label"], value["scores"][0]["score"])
        assert [(item["label"], (item["start"], item["end"])) for item in value["windows"]] == [
            (LABELS[int(window.argmax())], place) for window, (_, place) in zip(scores, windows, strict=True)
        ]
        np.testing.assert_allclose(
            [item["score"] for item in value["windows"]], [window.max() for window in scores], atol=3e-5
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_short_text_says_the_same_with_and_without_stride(model, pipeline, texts, reduction):
    short = [text for text in texts if len(pipeline.tokenizer(text).input_ids) <= MAX_LENGTH]
    assert len(short) > 5
    options = {"top_k": 3, "reduction": reduction}
    first, second = (
        run_heads(load_heads(spec(model, max_length=MAX_LENGTH, stride=stride, options=options)), {"text": short})
        for stride in (None, 7)
    )
    assert first.columns[0].equals(second.columns[0])
    assert (first.num_windows == second.num_windows).all()


def test_without_stride_the_beginning_is_read_and_the_rest_counted_as_cut(model, texts):
    cut = run_heads(load_heads(spec(model, max_length=MAX_LENGTH)), {"text": texts})
    windows = run_heads(
        load_heads(spec(model, max_length=MAX_LENGTH, stride=0, options={"reduction": "first"})), {"text": texts}
    )
    assert cut.truncated.tolist() == (windows.num_windows > 1).tolist()
    assert cut.truncated.any()
    for one, other in zip(cut.columns[0].to_pylist(), windows.columns[0].to_pylist(), strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_a_row_with_a_failed_window_is_an_error():
    task = TextClassificationTask(["a", "b"], TextClassificationOptions())
    windows = np.tile(np.array([0, 1], np.int32), 3)
    tokens = TokenBatch(np.zeros(6, np.int32), np.arange(7), np.repeat(np.arange(3), 2), windows, np.zeros(6, np.bool_))
    asked = Asked({"text": ["t"] * 3}, Sequences(["t"] * 3, None, np.arange(3)), tokens, num_rows=3)
    values = np.array([[0, 1], [0, 1], [1, 0], [0, np.inf], [0, 0]], np.float32)
    decoded = task.decode(HeadOutput(np.array([0, 1, 2, 4, 5]), values), asked)
    assert decoded.errors == {1: OUT_OF_MEMORY, 2: NOT_FINITE}
    first, *others = decoded.column.to_pylist()
    assert others == [None, None]
    assert first["label"] == "b"
