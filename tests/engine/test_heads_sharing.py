"""Heads on one trunk share one forward, heads with one vocabulary one tokenization, and each answers as if alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from tiny_models import load_heads, random_text, run_heads, tiny_config, write_model

from distilbatch.engine.annotated import AnnotatedBuffer
from distilbatch.engine.spec import HeadSpec
from distilbatch.inference.trunks import trunk_fingerprint
from distilbatch.model.modeling import (
    DistilBertForMaskedLM,
    DistilBertForMultipleChoice,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
    PreTrainedModel,
)
from distilbatch.records import TokenBatch
from distilbatch.tokenization import DocumentTokenizer

TEXT = (("text", "text"),)
NO_MASK = "no [MASK] token in the part of the text that was read"


class OnTrunk:
    """Writes checkpoints that share the encoder of one seed.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, kind: type[PreTrainedModel], *, trunk: int = 0, head: int = 1, **settings: object) -> Path:
        folder = self._folder / f"{kind.__name__}-{trunk}-{head}"
        if not folder.is_dir():
            write_model(kind, folder, seed=head, **settings)
            torch.manual_seed(trunk)
            encoder = DistilBertModel(tiny_config())
            model = kind.from_pretrained(folder)
            model.encoder.load_state_dict(encoder.state_dict())
            model.save_pretrained(folder)
        return folder


@pytest.fixture(scope="module")
def on_trunk(tmp_path_factory: pytest.TempPathFactory) -> OnTrunk:
    return OnTrunk(tmp_path_factory.mktemp("trunks"))


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of the documents of every forward of an encoder."""
    original, calls = DistilBertModel.forward_packed, []

    def counted(self, packed, *arguments):
        calls.append(list(packed.layout.lengths))
        return original(self, packed, *arguments)

    monkeypatch.setattr(DistilBertModel, "forward_packed", counted)
    return calls


@pytest.fixture
def tokenizations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether details were asked for, of every tokenization."""
    original, calls = DocumentTokenizer.encode, []

    def counted(self, first, second=None, *, details: bool = False, **options: object) -> TokenBatch:
        calls.append(details)
        return original(self, first, second, details=details, **options)

    monkeypatch.setattr(DocumentTokenizer, "encode", counted)
    return calls


@pytest.fixture(scope="module")
def texts() -> list[str | None]:
    rng = random.Random(12)
    return [random_text(rng, 50) for _ in range(30)] + [None, "", "\x01"]


def classifier(on_trunk: OnTrunk, name: str, *, trunk: int = 0, head: int = 1, **arguments: object) -> HeadSpec:
    model = on_trunk(DistilBertForSequenceClassification, trunk=trunk, head=head, id2label={0: "no", 1: "yes", 2: "?"})
    return HeadSpec(name, "text-classification", model, TEXT, **arguments)


def three_classifiers(on_trunk: OnTrunk) -> list[HeadSpec]:
    return [classifier(on_trunk, f"head{n}", head=n, options={"top_k": n}) for n in (1, 2, 3)]


def mixed(on_trunk: OnTrunk) -> list[HeadSpec]:
    """A head of every kind that reads one text, all on one trunk."""
    tags = on_trunk(DistilBertForTokenClassification, id2label={0: "O", 1: "B-X", 2: "I-X"})
    return [
        classifier(on_trunk, "topic", options={"top_k": 3}),
        HeadSpec("spans", "token-classification", tags, TEXT),
        HeadSpec("vector", "feature-extraction", on_trunk(DistilBertModel), TEXT, options={"pooling": "mean"}),
        HeadSpec("filled", "fill-mask", on_trunk(DistilBertForMaskedLM), TEXT),
    ]


def alone(head: HeadSpec, columns: dict[str, list]) -> AnnotatedBuffer:
    return run_heads(load_heads(head), columns)


def assert_close(one: object, other: object) -> None:
    """Equal but for rounding."""
    if isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-4)
    elif isinstance(one, (list, dict)):
        assert type(one) is type(other)
        assert len(one) == len(other)
        for key in one if isinstance(one, dict) else range(len(one)):
            assert_close(one[key], other[key])
    else:
        assert one == other


def test_three_heads_on_a_trunk_cost_one_tokenization_and_one_forward(on_trunk, texts, forwards, tokenizations):
    heads = load_heads(*three_classifiers(on_trunk))
    buffer = heads.tokenize({"text": pa.array(texts, pa.string())})
    outputs = heads.predict(buffer)
    shared = [sorted(lengths) for lengths in forwards]
    assert tokenizations == [False]
    assert sum(map(sum, shared)) == sum(len(q.tokens.input_ids) for q in buffer.questions)
    assert [output.tokens_computed for output in outputs] == [sum(map(sum, shared)), 0, 0]
    assert outputs[0].seconds > 0 == outputs[1].seconds == outputs[2].seconds
    forwards.clear()
    alone(three_classifiers(on_trunk)[0], {"text": texts})
    assert [sorted(lengths) for lengths in forwards] == shared


def test_heads_of_one_kind_answer_exactly_as_if_alone(on_trunk, texts):
    specs = three_classifiers(on_trunk)
    together = run_heads(load_heads(*specs), {"text": texts})
    separate = [alone(spec, {"text": texts}) for spec in specs]
    for column, other in zip(together.columns, separate, strict=True):
        assert column.equals(other.columns[0])
    labels = [[item and item["label"] for item in column.to_pylist()] for column in together.columns]
    assert labels[0] != labels[1]
    assert (together.statuses, together.errors) == (separate[0].statuses, separate[0].errors)
    assert (together.num_tokens == separate[0].num_tokens).all()


def test_heads_of_every_kind_share_a_forward_and_answer_as_if_alone(on_trunk, texts, forwards, tokenizations):
    specs = mixed(on_trunk)
    columns = {"text": [*texts, "a [MASK] here"]}
    together = run_heads(load_heads(*specs), columns)
    assert tokenizations == [True]  # spans point into the text, so all read the detailed tokens
    documents = sum(text is not None and text.strip("\x01") != "" for text in columns["text"])
    assert sum(map(len, forwards)) == documents
    for spec, column in zip(specs, together.columns, strict=True):
        assert_close(column.to_pylist(), alone(spec, columns).columns[0].to_pylist())


def test_other_trunks_with_the_same_vocabulary_share_the_tokenization(on_trunk, texts, forwards, tokenizations):
    specs = [classifier(on_trunk, f"head{n}", trunk=n) for n in (0, 5)]
    heads = load_heads(*specs)
    buffer = heads.tokenize({"text": pa.array(texts, pa.string())})
    outputs = heads.predict(buffer)
    assert tokenizations == [False]
    tokens = len(buffer.questions[0].tokens.input_ids)
    assert [output.tokens_computed for output in outputs] == [tokens, tokens]
    assert sum(map(sum, forwards)) == 2 * tokens
    for spec, column in zip(specs, heads.decode(buffer, outputs).columns, strict=True):
        assert column.equals(alone(spec, {"text": texts}).columns[0])


@pytest.mark.parametrize("other", [{"max_length": 20}, {"stride": 4}])
def test_heads_that_read_differently_are_tokenized_apart(on_trunk, texts, tokenizations, other):
    specs = [classifier(on_trunk, "a"), classifier(on_trunk, "b", **other)]
    together = run_heads(load_heads(*specs), {"text": texts})
    assert len(tokenizations) == 2
    for spec, column in zip(specs, together.columns, strict=True):
        assert column.equals(alone(spec, {"text": texts}).columns[0])


def test_a_head_that_fails_a_row_leaves_the_values_of_the_others(on_trunk):
    specs = mixed(on_trunk)
    result = run_heads(load_heads(*specs), {"text": ["no mask", "a [MASK]", None]})
    assert result.errors == [f"filled: {NO_MASK}", None, None]
    assert [status.value for status in result.statuses] == ["error", "ok", "null"]
    known = [[value is not None for value in column.to_pylist()] for column in result.columns]
    assert known == [[True, True, False]] * 3 + [[False, True, False]]


def test_the_reasons_of_several_heads_are_all_given(on_trunk):
    chooser = HeadSpec(
        "chosen", "multiple-choice", on_trunk(DistilBertForMultipleChoice), (("prompt", "text"), ("choices", "c"))
    )
    specs = [mixed(on_trunk)[3], chooser]
    result = run_heads(load_heads(*specs), {"text": ["x", "y [MASK]"], "c": pa.array([["a"], ["a", "b"]])})
    reasons = f"filled: {NO_MASK}; chosen: expected at least 2 choices, found 1"
    assert result.errors == [reasons, None]
    assert [[value is None for value in column.to_pylist()] for column in result.columns] == [[True, False]] * 2


def test_a_trunks_fingerprint_is_that_of_its_weights_in_any_number_format(on_trunk):
    first, same, other = (
        DistilBertForSequenceClassification.from_pretrained(classifier(on_trunk, "x", trunk=trunk, head=head).model)
        for trunk, head in ((0, 1), (0, 2), (5, 1))
    )
    assert trunk_fingerprint(first) == trunk_fingerprint(same) != trunk_fingerprint(other)
    whole = trunk_fingerprint(first)
    assert trunk_fingerprint(first.to(torch.bfloat16)) == trunk_fingerprint(same.to(torch.bfloat16)) != whole
