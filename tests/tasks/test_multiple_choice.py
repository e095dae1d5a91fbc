"""Multiple choice equals the reference's model on padded input; rows with too few or empty choices are errors."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from tiny_models import POSITIONS, load_annotator, load_heads, random_text, run_heads, write_model

from distilbatch.engine.spec import HeadSpec
from distilbatch.errors import ConfigError
from distilbatch.model.modeling import DistilBertForMultipleChoice
from distilbatch.records import HeadOutput, Sequences, TokenBatch
from distilbatch.tasks.base import NOT_FINITE, OUT_OF_MEMORY, Asked
from distilbatch.tasks.multiple_choice import MultipleChoiceTask


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(DistilBertForMultipleChoice, tmp_path_factory.mktemp("choice") / "model")


class Reference:
    """The documented use: every choice beside the prompt, padded to one length, and a softmax over the choices."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.DistilBertForMultipleChoice.from_pretrained(folder).eval()

    def scores(self, prompt: str, choices: list[str]) -> list[float]:
        encoded = self.tokenizer(
            [prompt] * len(choices), choices, padding=True, truncation=True, max_length=POSITIONS, return_tensors="pt"
        )
        with torch.inference_mode():
            logits = self.model(input_ids=encoded.input_ids[None], attention_mask=encoded.attention_mask[None]).logits
        return logits.softmax(-1)[0].tolist()


@pytest.fixture(scope="module")
def reference(model: Path) -> Reference:
    return Reference(model)


def spec(model: Path, *columns: str) -> HeadSpec:
    return HeadSpec("chosen", "multiple-choice", model, (("prompt", "text"), *(("choices", name) for name in columns)))


def assert_chosen(found: dict, expected: list[float]) -> None:
    np.testing.assert_allclose(found["scores"], expected, atol=1e-4)
    assert found["choice"] == int(np.argmax(expected))
    assert found["score"] == max(found["scores"])


def test_a_list_column_may_hold_any_number_of_choices(model, reference):
    rng = random.Random(2)
    rows = [
        {"text": random_text(rng, 50), "choices": [random_text(rng, 30) for _ in range(rng.randint(2, 6))]}
        for _ in range(40)
    ]
    for row, found in zip(rows, load_annotator("multiple-choice", model, choices=["choices"])(rows), strict=True):
        assert_chosen(found, reference.scores(row["text"], row["choices"]))


def test_columns_hold_a_choice_each(model, reference):
    rng = random.Random(4)
    rows = [{name: random_text(rng) for name in ("text", "c", "a", "b")} for _ in range(10)]
    for row, found in zip(rows, load_annotator("multiple-choice", model, choices=["c", "a", "b"])(rows), strict=True):
        assert_chosen(found, reference.scores(row["text"], [row["c"], row["a"], row["b"]]))


def test_rows_that_cannot_be_asked_are_errors_and_the_others_are_not(model, reference):
    choices = [
        ["red", "blue"],
        None,
        [],
        ["red"],
        ["red", None],
        ["red", "blue", " "],
        ["\x01", "red"],
        ["a", "b"],
        ["a", "b"],
    ]
    texts = ["prompt"] * 7 + [None, "other"]
    result = run_heads(
        load_heads(spec(model, "choices")), {"text": texts, "choices": pa.array(choices, pa.list_(pa.string()))}
    )
    assert result.errors == [
        None, "chosen: the choices are null", "chosen: expected at least 2 choices, found 0",
        "chosen: expected at least 2 choices, found 1", "chosen: choice 1 is null or empty",
        "chosen: choice 2 is null or empty", "chosen: choice 0 has no tokens", None, None,
    ]  # fmt: skip
    found = result.columns[0].to_pylist()
    assert found[1:8] == [None] * 7
    assert_chosen(found[0], reference.scores("prompt", ["red", "blue"]))
    assert_chosen(found[8], reference.scores("other", ["a", "b"]))


def test_a_null_in_a_choice_column_is_an_error(model):
    result = run_heads(load_heads(spec(model, "a", "b")), {"text": ["x", "y"], "a": ["p", None], "b": ["q", "r"]})
    assert result.errors == [None, "chosen: choice 0 is null or empty"]
    assert [value is None for value in result.columns[0].to_pylist()] == [False, True]


@pytest.mark.parametrize("kind", [pa.large_list(pa.large_string()), pa.list_(pa.binary()), pa.list_(pa.string(), 2)])
def test_lists_may_be_stored_in_any_way(model, reference, kind):
    choices = pa.array([["x", "y"], ["red", "blue"], None, ["a", "b"]], kind).slice(1)
    result = run_heads(load_heads(spec(model, "choices")), {"text": ["p", "q", "r"], "choices": choices})
    found = result.columns[0].to_pylist()
    assert_chosen(found[0], reference.scores("p", ["red", "blue"]))
    assert found[1] is None
    assert_chosen(found[2], reference.scores("r", ["a", "b"]))


def test_one_column_of_texts_is_refused(model):
    with pytest.raises(ConfigError, match="column 'a'; expected lists of texts; found string"):
        run_heads(load_heads(spec(model, "a")), {"text": ["x"], "a": ["p"]})


def test_a_buffer_in_which_no_row_can_be_asked_is_no_problem(model):
    result = run_heads(
        load_heads(spec(model, "choices")), {"text": ["x", None], "choices": pa.array([["p"], ["p", "q"]])}
    )
    assert result.errors == ["chosen: expected at least 2 choices, found 1", None]
    assert result.columns[0].to_pylist() == [None, None]


def test_rows_that_the_model_gave_nothing_or_nothing_finite_for_are_errors():
    rows = np.repeat(np.arange(3), 2)
    sequences = Sequences(["p"] * 6, ["c"] * 6, rows)
    tokens = TokenBatch(np.zeros(6, np.int32), np.arange(7), np.arange(6), np.zeros(6, np.int32), np.zeros(6, np.bool_))
    asked = Asked({"prompt": ["p"] * 3, "choices": [["c", "c"]] * 3}, sequences, tokens, num_rows=3)
    values = np.array([[0.0], [1.0], [np.inf], [0.0], [5.0]], np.float32)
    decoded = MultipleChoiceTask().decode(HeadOutput(np.arange(5), values), asked)
    assert decoded.errors == {1: NOT_FINITE, 2: OUT_OF_MEMORY}
    first, *others = decoded.column.to_pylist()
    assert others == [None, None]
    assert_chosen(first, [1 / (1 + np.e), np.e / (1 + np.e)])
