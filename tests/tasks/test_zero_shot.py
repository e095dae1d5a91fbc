"""Zero-shot classification equals the Hugging Face pipeline, wherever entailment stands among the classes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import transformers
from tiny_models import POSITIONS, load_annotator, load_heads, random_text, run_heads, write_model

from distilbatch.engine.spec import HeadSpec
from distilbatch.errors import ConfigError
from distilbatch.model.modeling import DistilBertForSequenceClassification
from distilbatch.records import HeadOutput, Sequences, TokenBatch
from distilbatch.tasks.base import NOT_FINITE, OUT_OF_MEMORY, Asked
from distilbatch.tasks.zero_shot import ZeroShotClassificationOptions, ZeroShotClassificationTask

CLASSES = {
    "last": ("contradiction", "neutral", "entailment"),
    "first": ("ENTAILMENT", "neutral", "contradiction"),
    "middle": ("contradiction", "Entailed", "neutral"),
    "two": ("entailment", "not_entailment"),
}


@pytest.fixture(scope="module", params=CLASSES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero_shot") / request.param
    return write_model(
        DistilBertForSequenceClassification, folder, id2label=dict(enumerate(CLASSES[request.param])), seed=7
    )


@pytest.mark.parametrize(
    "options",
    [
        {"candidate_labels": ["sport", "politics", "東京"]},
        {"candidate_labels": ["sport", "politics", "a river"], "multi_label": True},
        {"candidate_labels": ["sport"]},
        {"candidate_labels": ["red", "blue"], "hypothesis_template": "{} is what this text is about"},
        {"candidate_labels": ["red", "{0}"], "hypothesis_template": "{{so}} {0} it is"},
    ],
    ids=["each other", "one by one", "single", "template", "braces"],
)
def test_labels_and_scores_are_the_pipelines(model, options):
    pipeline = transformers.pipeline("zero-shot-classification", model=str(model), device="cpu")
    pipeline.tokenizer.model_max_length = POSITIONS
    rng = random.Random(6)
    texts = [random_text(rng) for _ in range(12)] + ["river " * 100]
    found = load_annotator("zero-shot-classification", model, **options)([*texts, None, ""])
    assert found[-2:] == [None, None]
    for text, value in zip(texts, found[:-2], strict=True):
        expected = pipeline(text, **options)
        # By label: rounding may swap two labels whose scores are equal to the last digits.
        scores = {item["label"]: item["score"] for item in value["scores"]}
        assert scores == pytest.approx(dict(zip(expected["labels"], expected["scores"], strict=True)), abs=1e-4)
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        assert (value["label"], value["score"]) == (value["scores"][0]["label"], value["scores"][0]["score"])


def test_a_head_without_entailment_is_refused(tmp_path):
    model = write_model(DistilBertForSequenceClassification, tmp_path / "m", id2label={0: "red", 1: "not entailed"})
    with pytest.raises(ConfigError) as caught:
        load_annotator("zero-shot-classification", model, candidate_labels=["a"])
    assert str(caught.value).startswith("zero-shot-classification needs a natural language inference checkpoint")
    assert (caught.value.expected, caught.value.found) == (
        "a class whose name begins with 'entail'",
        "red, not entailed",
    )


@pytest.mark.parametrize(
    "label2id",
    [
        {"contradiction": 0, "neutral": 1, "entailment": 2},
        {"neutral": 0, "entailed": 1, "entailment": 2},
        {"neutral": 0, "entailment": 9},
    ],
    ids=["alone", "first of two", "of no class"],
)
@pytest.mark.parametrize("named", [True, False], ids=["labels too", "numbers"])
def test_entailment_is_the_one_of_label2id_where_it_has_one(tmp_path, label2id, named):
    names = ("entailment", "neutral", "contradiction") if named else ("LABEL_0", "LABEL_1", "LABEL_2")
    model = write_model(
        DistilBertForSequenceClassification, tmp_path / "m", id2label=dict(enumerate(names)), label2id=label2id, seed=7
    )
    options = {"candidate_labels": ["sport", "politics", "a river"]}
    if 9 in label2id.values():  # the pipeline breaks
        if named:
            assert load_annotator("zero-shot-classification", model, **options)(["river"])[0] is not None
        else:
            with pytest.raises(ConfigError, match="needs a natural language inference checkpoint"):
                load_annotator("zero-shot-classification", model, **options)
        return
    pipeline = transformers.pipeline("zero-shot-classification", model=str(model), device="cpu")
    for multi_label in (False, True):
        expected = pipeline("red river", multi_label=multi_label, **options)
        annotate = load_annotator("zero-shot-classification", model, multi_label=multi_label, **options)
        scores = {item["label"]: item["score"] for item in annotate(["red river"])[0]["scores"]}
        assert scores == pytest.approx(dict(zip(expected["labels"], expected["scores"], strict=True)), abs=1e-4)


def test_a_hypothesis_without_tokens_is_an_error_in_every_row(model):
    options = {"candidate_labels": ["red", "\x01"], "hypothesis_template": "{}"}
    head = HeadSpec("kind", "zero-shot-classification", model, (("text", "text"),), options=options)
    result = run_heads(load_heads(head), {"text": ["x", None, "y"]})
    assert result.errors == ["kind: a hypothesis has no tokens", None, "kind: a hypothesis has no tokens"]
    assert result.columns[0].to_pylist() == [None] * 3


def test_a_label_with_braces_is_a_label():
    task = ZeroShotClassificationTask(["entailment"], ZeroShotClassificationOptions(["{x}", "{}"], "about {}."))
    assert task.sequences({"text": ["t"]}).second == ["about {x}.", "about {}."]


def test_rows_that_the_model_gave_nothing_or_nothing_finite_for_are_errors():
    task = ZeroShotClassificationTask(["no", "entailment"], ZeroShotClassificationOptions(["a", "b"]))
    sequences = Sequences(["t"] * 6, ["h"] * 6, np.repeat(np.arange(3), 2))
    tokens = TokenBatch(np.zeros(6, np.int32), np.arange(7), np.arange(6), np.zeros(6, np.int32), np.zeros(6, np.bool_))
    values = np.array([[0, 0], [0, 1], [0, np.inf], [0, 0], [0, 0]], np.float32)
    decoded = task.decode(HeadOutput(np.arange(5), values), Asked({"text": ["t"] * 3}, sequences, tokens, num_rows=3))
    assert decoded.errors == {1: NOT_FINITE, 2: OUT_OF_MEMORY}
    first, *others = decoded.column.to_pylist()
    assert others == [None, None]
    assert first["label"] == "b"
    assert first["score"] == pytest.approx(np.e / (1 + np.e), abs=1e-6)
