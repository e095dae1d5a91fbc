"""Answers equal those of the pipeline of transformers 4.57, kept in ``golden``; bad rows are errors."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answer_samples import token_scores, write_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from distilbatch.config import QuestionAnswering
from distilbatch.errors import ConfigError
from distilbatch.records import HeadOutput, TokenBatch
from distilbatch.tasks import answer_spans
from distilbatch.tasks.answer_spans import best_spans, read_contexts
from distilbatch.tasks.base import NOT_FINITE, OUT_OF_MEMORY, Asked
from distilbatch.tasks.question_answering import (
    NO_CONTEXT,
    NO_QUESTION,
    QuestionAnsweringOptions,
    QuestionAnsweringTask,
)
from distilbatch.tokenization import DocumentTokenizer

GOLDEN = json.loads((Path(__file__).parent / "golden" / "question_answering.json").read_text("utf-8"))["cases"]
ANSWERS = ("answer", "start", "end")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary"))


class Asker:
    """Asks and decodes as the engine does, with the samples' scores in place of a model's."""

    def __init__(self, folder: Path, *, max_length: int = 64, doc_stride: int = 8, **options: Any) -> None:
        self.options = QuestionAnsweringOptions(**options)
        limit = self.options.max_question_len
        self.tokenizer = DocumentTokenizer.from_folder(
            folder, max_length=max_length, stride=doc_stride, max_first=limit
        )
        self.task = QuestionAnsweringTask(self.options, continues=self.tokenizer.continuations())

    def ask(self, contexts: list[str | None], questions: list[str | None] | None = None) -> Asked:
        inputs = {"context": contexts} | ({} if questions is None else {"question": questions})
        sequences = self.task.sequences(inputs)
        tokens = self.tokenizer.encode(sequences.first, sequences.second, details=True)
        return Asked(inputs, sequences, tokens, len(contexts))

    def decode(self, asked: Asked, output: HeadOutput | None = None) -> tuple[list[Any], dict[int, str]]:
        decoded = self.task.decode(output or scored(asked.tokens), asked)
        assert decoded.column.type == self.task.type
        decoded.column.validate(full=True)
        return decoded.column.to_pylist(), asked.sequences.errors | decoded.errors


def scored(tokens: TokenBatch, documents: list[int] | None = None) -> HeadOutput:
    """What a head would say of all documents, or of some."""
    ranges = [(int(tokens.cu_seqlens[i]), int(tokens.cu_seqlens[i + 1])) for i in range(len(tokens))]
    ranges = ranges if documents is None else [ranges[i] for i in documents]
    positions = [np.arange(*span) for span in ranges]
    values = [token_scores(tokens.input_ids[slice(*span)]) for span in ranges]
    return HeadOutput(np.concatenate(positions or [np.empty(0, np.int64)]), np.concatenate([np.empty((0, 2)), *values]))


def assert_equal_answers(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [[answer[key] for key in ANSWERS] for answer in found] == [
        [answer[key] for key in ANSWERS] for answer in expected
    ]
    np.testing.assert_allclose([a["score"] for a in found], [a["score"] for a in expected], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_answers_are_those_of_the_last_pipeline_there_was(case, vocabulary):
    asker = Asker(vocabulary, max_length=case["max_length"], doc_stride=case["doc_stride"], **case["options"])
    answers, errors = asker.decode(asker.ask([case["context"]], [case["question"]]))
    assert errors == {}
    assert_equal_answers(answers[0], case["answers"])


def test_the_golden_cases_hold_what_is_hard():
    options = [case["options"] for case in GOLDEN]
    assert {option["align_to_words"] for option in options} == {
        option["handle_impossible_answer"] for option in options
    }
    assert any(len(case["answers"]) > 20 for case in GOLDEN)
    assert any(answer["answer"] == "" for case in GOLDEN for answer in case["answers"])
    assert any(sum(answer["score"] for answer in case["answers"]) > 1.001 for case in GOLDEN)  # windows overlap


@pytest.mark.parametrize("cells", [1, 1000, 1 << 20])
def test_rows_do_not_depend_on_their_neighbours_or_on_how_they_are_grouped(cells, vocabulary, monkeypatch):
    monkeypatch.setattr(answer_spans, "MAX_CELLS", cells)
    asker = Asker(vocabulary, max_length=40, doc_stride=5, top_k=4, handle_impossible_answer=True)
    contexts, questions = [case["context"] for case in GOLDEN], [case["question"] for case in GOLDEN]
    together, errors = asker.decode(asker.ask(contexts, questions))
    assert errors == {}
    for context, question, answers in zip(contexts, questions, together, strict=True):
        assert asker.decode(asker.ask([context], [question]))[0] == [answers]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 40), st.integers(1, 15), st.integers(0))
def test_the_best_spans_are_those_that_trying_all_finds(lengths, count, max_tokens, seed):
    random = np.random.default_rng(seed)
    sizes = [length + 2 + random.integers(4) for length in lengths]  # [CLS] question [SEP] context
    is_context = np.concatenate([np.arange(size) >= size - length for size, length in zip(sizes, lengths, strict=True)])
    logits = random.normal(0, 3, (sum(sizes), 2)).astype(np.float32)
    contexts = read_contexts(logits, is_context, np.array(sizes))
    spans = best_spans(contexts, count=count, max_tokens=max_tokens)
    base = 0
    for window, length in enumerate(lengths):
        start, end = contexts.probabilities[base : base + length].T
        pairs = [(s, e) for s in range(length) for e in range(s, min(s + max_tokens, length))]
        expected = sorted(((start[s] * end[e], s + base, e + base) for s, e in pairs), reverse=True)[:count]
        mine = spans.windows == window
        assert list(zip(spans.first[mine], spans.last[mine], strict=True)) == [(s, e) for _, s, e in expected]
        np.testing.assert_allclose(spans.scores[mine], [score for score, _, _ in expected], rtol=1e-12)
        base += length


def test_probabilities_are_over_the_context_and_the_first_token_alone():
    logits = np.array([[1, 0], [50, 50], [60, 60], [2, 1], [0, 3]], np.float32)
    contexts = read_contexts(logits, np.array([False, False, False, True, True]), np.array([5]))
    start, end = np.exp([1, 2, 0]), np.exp([0, 1, 3])
    np.testing.assert_allclose(contexts.probabilities, np.stack([start / start.sum(), end / end.sum()], 1)[1:])
    np.testing.assert_allclose(contexts.no_answer, [start[0] / start.sum() * end[0] / end.sum()])


def test_far_apart_scores_still_give_an_answer():
    logits = np.array([[0, 0], [0, 0], [0, 0], [-300, 300], [300, -300]], np.float32)
    contexts = read_contexts(logits, np.arange(5) > 2, np.array([5]))
    assert best_spans(contexts, count=1, max_tokens=5).scores[0] > 0


def test_one_question_may_be_asked_of_every_context(vocabulary):
    contexts = ["the river", None, "anna lives in a town"]
    fixed = Asker(vocabulary, question="where lives anna?")
    named = Asker(vocabulary)
    answers, errors = fixed.decode(fixed.ask(contexts))
    assert errors == {}
    assert answers[1] is None
    assert answers == named.decode(named.ask(contexts, ["where lives anna?"] * 3))[0]


def test_a_question_and_a_context_need_each_other(vocabulary):
    asker = Asker(vocabulary)
    contexts = ["the river", None, None, "a town", "a house", "\u0001", None]
    asked = asker.ask(contexts, [None, "who?", None, "where?", "\u0000\u0001", "who?", "\u0001"])
    answers, errors = asker.decode(asked)
    assert errors == {0: NO_QUESTION, 1: NO_CONTEXT, 4: NO_QUESTION, 5: NO_CONTEXT, 6: NO_CONTEXT}
    assert [answer is None for answer in answers] == [True, True, True, False, True, True, True]


def test_where_all_rows_are_asked_the_same_one_without_a_context_is_null(vocabulary):
    asker = Asker(vocabulary, question="who?")
    assert asker.decode(asker.ask(["\u0001", None])) == ([None, None], {})


def test_a_row_with_a_window_out_of_memory_or_not_finite_is_an_error_and_the_others_are_not(vocabulary):
    asker = Asker(vocabulary, max_length=20, doc_stride=4)
    asked = asker.ask(["the town in a house " * 10, "a river", "the year", "a play " * 20], ["who?"] * 4)
    rows = asked.document_rows
    expected, _ = asker.decode(asked)
    kept = [index for index in range(len(rows)) if index != 2]  # a window of row 0
    output = scored(asked.tokens, kept)
    output.values[np.flatnonzero(output.positions >= asked.tokens.cu_seqlens[-2])[-1], 1] = np.nan
    answers, errors = asker.decode(asked, output)
    assert errors == {0: OUT_OF_MEMORY, 3: NOT_FINITE}
    assert answers == [None, expected[1], expected[2], None]
    nothing = HeadOutput(np.empty(0, np.int64), np.empty((0, 0), np.float32))
    assert asker.decode(asked, nothing) == ([None] * 4, dict.fromkeys(range(4), OUT_OF_MEMORY))


def test_a_long_question_is_cut_and_that_is_counted(vocabulary):
    long = Asker(vocabulary, max_question_len=3)
    asked = long.ask(["a town", "a river " * 60], ["who lives in the house"] * 2)
    assert asked.tokens.truncated.all()
    short = Asker(vocabulary)
    assert long.decode(asked) == short.decode(short.ask(["a town", "a river " * 60], ["who lives in"] * 2))


def test_equal_answers_at_several_places_are_one_at_the_likeliest_with_the_sum_of_scores(vocabulary):
    asker = Asker(vocabulary, max_answer_len=1, top_k=5)
    asked = asker.ask(["the anna, ANNA Bob"], ["who"])
    logits = np.array([0, 9, 9, 1, 3, 1, 4, 2, 9], np.float32)  # [CLS] who [SEP] the anna , anna bob [SEP]
    share = np.exp(logits[[0, 3, 4, 5, 6, 7]])
    share = (share / share.sum()) ** 2
    answers, _ = asker.decode(asked, HeadOutput(np.arange(9), np.stack([logits, logits], axis=1)))
    assert [(answer["answer"], answer["start"]) for answer in answers[0]] == [
        ("ANNA", 10),
        ("Bob", 15),
        ("the", 0),
        (",", 8),
    ]
    assert answers[0][0]["score"] == pytest.approx(share[2] + share[4])


def test_no_answer_is_as_likely_as_in_the_window_where_it_is_least_so(vocabulary):
    asker = Asker(vocabulary, max_length=20, doc_stride=4, top_k=100, handle_impossible_answer=True)
    asked = asker.ask(["a town " * 20], ["who"])
    cu_seqlens = asked.tokens.cu_seqlens
    values = np.zeros((cu_seqlens[-1], 2), np.float32)
    values[cu_seqlens[:-1]] = [[2, 2], [-3, -3], [5, 5]]  # [CLS] of windows with 16 tokens of context
    answers, _ = asker.decode(asked, HeadOutput(np.arange(len(values)), values))
    least = (np.exp(-3) / (np.exp(-3) + 16)) ** 2
    assert [answer["score"] for answer in answers[0] if not answer["answer"]] == pytest.approx([least])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"question": " "}, "question is blank"), ({"top_k": 0}, "top_k"), ({"max_answer_len": 0}, "max_answer_len"),
     ({"max_question_len": 0}, "max_question_len")],
)  # fmt: skip
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        QuestionAnsweringTask(QuestionAnsweringOptions(**options), continues=np.zeros(1, np.bool_))


def test_an_annotation_has_the_options_of_the_task():
    annotation = QuestionAnswering(name="who", model="m", question_column="q", doc_stride=5)
    assert set(annotation.options()) == {field.name for field in fields(QuestionAnsweringOptions)}
    assert annotation.columns("body") == (("context", "body"), ("question", "q"))
    assert annotation.window_stride == 5
    assert QuestionAnswering(name="who", model="m", question="Who?").columns("body") == (("context", "body"),)


@pytest.mark.parametrize(
    "options", [{}, {"question": "Who?", "question_column": "q"}, {"question": " "}, {"question": "Who?", "stride": 5}]
)
def test_an_annotation_needs_one_question_and_no_other_stride(options):
    with pytest.raises(ValueError, match=r"question|blanks"):
        QuestionAnswering(name="who", model="m", **options)


def test_heads_share_a_tokenization_only_when_they_ask_the_same():
    keys = [
        QuestionAnsweringTask(QuestionAnsweringOptions(**options), continues=np.zeros(1, np.bool_)).sharing_key
        for options in ({}, {"top_k": 3}, {"question": "a"}, {"question": "b"}, {"max_question_len": 9})
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
