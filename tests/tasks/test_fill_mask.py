"""Fill-mask equals the Hugging Face pipeline; rows without a mask are errors, and the decoder runs on masks only."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tiny_models import PIECES, POSITIONS, load_annotator, load_heads, run_heads, write_model

from distilbatch.engine.registry import load_head
from distilbatch.engine.spec import HeadSpec
from distilbatch.errors import ConfigError
from distilbatch.inference.predictor import Predictor
from distilbatch.model.modeling import DistilBertForMaskedLM
from distilbatch.records import HeadOutput, Sequences, TokenBatch
from distilbatch.tasks.base import NOT_FINITE, OUT_OF_MEMORY, Asked
from distilbatch.tasks.fill_mask import FillMaskTask

MASK_ID = 103


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(DistilBertForMaskedLM, tmp_path_factory.mktemp("fill_mask") / "model")


@pytest.fixture(scope="module")
def pipeline(model: Path) -> transformers.FillMaskPipeline:
    return transformers.pipeline("fill-mask", model=str(model), device="cpu")


def masked(rng: random.Random, masks: int) -> str:
    words = [rng.choice(PIECES) for _ in range(rng.randint(0, 12))]
    for _ in range(masks):
        words.insert(rng.randint(0, len(words)), "[MASK]")
    return rng.choice([" ", " ", ""]).join(words) if masks else " ".join(words)


def spec(model: Path, **arguments: object) -> HeadSpec:
    return HeadSpec("filled", "fill-mask", model, (("text", "text"),), **arguments)


def assert_filled(found: list, expected: list) -> None:
    assert [(item["token"], item["token_str"]) for item in found] == [
        (item["token"], item["token_str"]) for item in expected
    ]
    np.testing.assert_allclose([item["score"] for item in found], [item["score"] for item in expected], atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 1},
        {"top_k": 40},
        {"targets": ["river", "red"]},
        {"targets": ["Anna", "anna", "unbelievably", "東京大学", "##ing", "[UNK]", "red", "red"], "top_k": 20},
        {"targets": ["river", "red", "the"], "top_k": 2},
    ],
    ids=str,
)
def test_masks_are_filled_as_the_pipeline_does(model, pipeline, options):
    rng = random.Random(5)
    texts = [masked(rng, 1 + n % 4) for n in range(40)]
    annotate = load_annotator("fill-mask", model, **options)
    for text, found in zip(texts, annotate(texts), strict=True):
        expected = pipeline(text, **{"top_k": 5, **options})
        expected = expected if isinstance(expected[0], list) else [expected]
        assert found is not None, text
        assert len(found) == text.count("[MASK]") == len(expected)
        for mask, others in zip(found, expected, strict=True):
            assert_filled(mask, others)


def test_every_token_of_the_vocabulary_is_written_as_the_pipeline_writes_it(model, pipeline):
    head = load_head(spec(model))
    count = head.tokenizer.vocab_size
    asked = Asked(
        {"text": ["x"]},
        Sequences(["x"], None, np.array([0])),
        TokenBatch(np.array([MASK_ID], np.int32), np.array([0, 1]), np.array([0]), np.array([0]), np.array([False])),
        num_rows=1,
    )
    output = HeadOutput(np.array([0]), np.zeros((1, count), np.float32), np.arange(count)[None])
    (filled,) = head.task.decode(output, asked).column.to_pylist()[0]
    assert [item["token_str"] for item in filled] == [pipeline.tokenizer.decode([index]) for index in range(count)]


def test_a_row_without_a_mask_is_an_error_and_the_others_are_not(model):
    heads = load_heads(spec(model))
    result = run_heads(
        heads, {"text": ["a [MASK]", "none", None, "  ", "\x01", "[mask]", "[MASK]", "word " * 80 + "[MASK]"]}
    )
    (column,) = result.columns
    assert [None if value is None else len(value) for value in column.to_pylist()] == [1, *[None] * 5, 1, None]
    message = "filled: no [MASK] token in the part of the text that was read"
    assert result.errors == [None, message, None, None, None, message, None, message]
    assert [status.value for status in result.statuses] == [
        "ok", "error", "null", "empty", "empty", "error", "ok", "error"]  # fmt: skip


def test_a_buffer_without_any_mask_or_text_is_no_problem(model):
    heads = load_heads(spec(model))
    assert run_heads(heads, {"text": ["no", "mask here"]}).columns[0].to_pylist() == [None, None]
    assert run_heads(heads, {"text": [None, ""]}).columns[0].to_pylist() == [None, None]


def test_the_decoder_runs_on_masks_only(model):
    head = load_head(spec(model))
    predictor = Predictor(
        [head.model], [head.readout], device=torch.device("cpu"), precision="float32", max_batch_tokens=64
    )
    rows: list[int] = []
    head.model.vocab_projector.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0]))
    rng = random.Random(1)
    texts = [masked(rng, n % 3) for n in range(30)]
    predictor.predict(head.tokenizer.encode([text or "x" for text in texts]))
    assert sum(rows) == sum(text.count("[MASK]") for text in texts) == 30


@pytest.mark.parametrize("stride", [0, 5, 12])
def test_a_mask_in_several_windows_is_filled_once_where_it_has_the_most_context(model, pipeline, stride):
    rng = random.Random(stride)
    texts = [
        " ".join(rng.choice(["[MASK]", "river", "anna"]) for _ in range(length)) for length in (3, 14, 15, 29, 60, 90)
    ]
    result = run_heads(load_heads(spec(model, max_length=16, stride=stride)), {"text": [*texts, "no mask " * 20]})
    found = result.columns[0].to_pylist()
    assert found.pop() is None
    room = 14
    for text, filled in zip(texts, found, strict=True):
        ids = pipeline.tokenizer(text, add_special_tokens=False).input_ids
        starts = [0]
        while starts[-1] + room < len(ids):
            starts.append(starts[-1] + room - stride)
        expected = []
        for place in (place for place, token in enumerate(ids) if token == MASK_ID):
            holding = [(start, min(start + room, len(ids))) for start in starts if start <= place < start + room]
            start, stop = max(holding, key=lambda window: min(place - window[0], window[1] - 1 - place))
            with torch.inference_mode():
                logits = pipeline.model(torch.tensor([[101, *ids[start:stop], 102]])).logits[0, 1 + place - start]
            best = logits.softmax(-1).topk(5)
            tokens = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            expected.append(
                [{"token": t, "token_str": pipeline.tokenizer.decode([t]), "score": score} for t, score in tokens]
            )
        assert len(filled or []) == len(expected)
        for mask, others in zip(filled or [], expected, strict=True):
            assert_filled(mask, others)


def test_rows_that_the_model_gave_nothing_or_nothing_finite_for_are_errors():
    task = FillMaskTask(token_text=str, mask_token="[MASK]", mask_token_id=9)
    tokens = TokenBatch(
        np.array([9, 1, 9, 9, 1, 9], np.int32), np.array([0, 2, 4, 5, 6]), np.arange(4), np.zeros(4, np.int32),
        np.zeros(4, np.bool_),
    )  # fmt: skip
    asked = Asked({"text": list("abcd")}, Sequences(list("abcd"), None, np.arange(4)), tokens, num_rows=4)
    values = np.array([[0.5], [np.nan], [0.5]], np.float32)
    decoded = task.decode(HeadOutput(np.array([0, 2, 3]), values, np.array([[4], [5], [6]])), asked)
    assert decoded.errors == {
        1: NOT_FINITE,
        2: "no [MASK] token in the part of the text that was read",
        3: OUT_OF_MEMORY,
    }
    assert decoded.column.to_pylist() == [[[{"token_str": "4", "token": 4, "score": 0.5}]], None, None, None]


def test_a_target_without_a_token_is_refused(model):
    with pytest.raises(ConfigError, match=r"targets.*words of the vocabulary"):
        load_heads(spec(model, options={"targets": ["river", "\x01"]}))


def test_texts_as_long_as_the_model_allows_are_filled(model, pipeline):
    text = "river " * (POSITIONS - 3) + "[MASK]"
    (found,) = load_annotator("fill-mask", model)([text])
    assert_filled(found[0], pipeline(text))
