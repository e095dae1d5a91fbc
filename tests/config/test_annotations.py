"""The annotations of a config, one class for each task: what each accepts, what it becomes, and what it refuses."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from distilbatch.config import Annotation, Config, load_config
from distilbatch.config.load import parse_options
from distilbatch.errors import ConfigError
from distilbatch.tasks.catalog import TASK_HEADS

TASKS = [kind.model_fields["task"].default for kind in get_args(Annotation)]
TASK_NAMES = f"{', '.join(map(repr, TASKS[:-1]))} or {TASKS[-1]!r}"


def load(entry: str) -> Config:
    document = {"source": {"path": "in"}, "sink": {"path": "out"}, "annotate": "replaced"}
    return load_config(document, overrides=[f"annotate=[{{name: a, model: m, {entry}}}]"], environ={})


def lines_of(folder: Path, entry: str) -> list[str]:
    """The messages about an entry that is written over several lines; its first key stands on line 6."""
    path = folder / "job.yaml"
    lines = "\n".join(f"    {line}" for line in textwrap.dedent(entry).strip().split("\n"))
    path.write_text(f"source: {{path: in}}\nsink: {{path: out}}\nannotate:\n  - name: a\n    model: m\n{lines}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    return str(caught.value).replace(f"{path}:", "line ").split("\n")


def test_there_is_a_class_for_every_task():
    assert sorted(TASKS) == sorted(TASK_HEADS)


@pytest.mark.parametrize(
    ("entry", "columns", "stride", "options"),
    [
        (
            "task: text-classification",
            [("text", "body")],
            None,
            {
                "top_k": None,
                "function_to_apply": None,
                "threshold": None,
                "reduction": "mean",
                "evidence": False,
                "pair": False,
            },
        ),
        (
            "task: text-classification, text_pair: reply, stride: 8, top_k: 2, threshold: 0.25, "
            "function_to_apply: sigmoid",
            [("text", "body"), ("text_pair", "reply")],
            8,
            {
                "top_k": 2,
                "function_to_apply": "sigmoid",
                "threshold": 0.25,
                "reduction": "mean",
                "evidence": False,
                "pair": True,
            },
        ),
        (
            "task: text-classification, stride: 16, reduction: length_weighted, evidence: true",
            [("text", "body")],
            16,
            {
                "top_k": None,
                "function_to_apply": None,
                "threshold": None,
                "reduction": "length_weighted",
                "evidence": True,
                "pair": False,
            },
        ),
        (
            "task: token-classification, stride: 0, aggregation_strategy: first, ignore_labels: []",
            [("text", "body")],
            0,
            {"aggregation_strategy": "first", "ignore_labels": (), "words": False},
        ),
        (
            "task: token-classification, words: tokens",
            [("words", "tokens")],
            None,
            {"aggregation_strategy": "simple", "ignore_labels": ("O",), "words": True},
        ),
        (
            "task: question-answering, question_column: q, doc_stride: 32, top_k: 3, handle_impossible_answer: true",
            [("context", "body"), ("question", "q")],
            32,
            {
                "question": None,
                "top_k": 3,
                "max_answer_len": 15,
                "max_question_len": 64,
                "handle_impossible_answer": True,
                "align_to_words": True,
            },
        ),
        (
            "task: question-answering, question: 'Who?'",
            [("context", "body")],
            None,
            {
                "question": "Who?",
                "top_k": 1,
                "max_answer_len": 15,
                "max_question_len": 64,
                "handle_impossible_answer": False,
                "align_to_words": True,
            },
        ),
        (
            "task: fill-mask, targets: [red, blue], stride: 8",
            [("text", "body")],
            8,
            {"top_k": 5, "targets": ("red", "blue")},
        ),
        (
            "task: multiple-choice, choices: [c1, c2]",
            [("prompt", "body"), ("choices", "c1"), ("choices", "c2")],
            None,
            {"reduction": "mean"},
        ),
        (
            "task: multiple-choice, choices: [c1], stride: 0, reduction: max",
            [("prompt", "body"), ("choices", "c1")],
            0,
            {"reduction": "max"},
        ),
        (
            "task: feature-extraction, pooling: cls, normalize: true, truncate_dim: 64, output: int8, stride: 4",
            [("text", "body")],
            4,
            {"pooling": "cls", "normalize": True, "truncate_dim": 64, "output": "int8"},
        ),
        (
            "task: zero-shot-classification, candidate_labels: [a, b], multi_label: true",
            [("text", "body")],
            None,
            {
                "candidate_labels": ("a", "b"),
                "hypothesis_template": "This example is {}.",
                "multi_label": True,
                "reduction": "mean",
                "evidence": False,
            },
        ),
        (
            "task: zero-shot-classification, candidate_labels: [a], stride: 4, reduction: first, evidence: true",
            [("text", "body")],
            4,
            {
                "candidate_labels": ("a",),
                "hypothesis_template": "This example is {}.",
                "multi_label": False,
                "reduction": "first",
                "evidence": True,
            },
        ),
    ],
)
def test_an_entry_says_which_columns_it_reads_and_how(entry, columns, stride, options):
    annotation = load(entry).annotate[0]
    assert list(annotation.columns("body")) == columns
    assert annotation.window_stride == stride
    assert annotation.options() == options


@pytest.mark.parametrize(
    ("entry", "messages"),
    [
        ("task: ner", [f"line 6: annotate.0.task: expected {TASK_NAMES}, found 'ner'"]),
        ("task: 5", [f"line 6: annotate.0.task: expected {TASK_NAMES}, found the number 5"]),
        ("task: [fill-mask]", [f"line 6: annotate.0.task: expected {TASK_NAMES}, found a list"]),
        ("task:", [f"line 6: annotate.0.task: expected {TASK_NAMES}, found nothing"]),
        ("top_k: 3", ["line 4: annotate.0.task: required key is missing, for example 'text-classification'"]),
        ("task: text-classification\nreduction: median",
         ["line 7: annotate.0.reduction: expected 'mean', 'max', 'length_weighted' or 'first', found 'median'"]),
        ("task: text-classification\nstride: -1",
         ["line 7: annotate.0.stride: expected a whole number of at least 0, found the number -1"]),
        ("task: token-classification\naggregation_strategy: longest",
         ["line 7: annotate.0.aggregation_strategy: expected 'none', 'simple', 'first', 'average' or 'max', found "
          "'longest'"]),
        ("task: token-classification\ntop_k: 1",
         ["line 7: annotate.0.top_k: unknown key (expected one of name, task, model, revision, max_length, stride, "
          "aggregation_strategy, ignore_labels, words)"]),
        ("task: question-answering\nquestion: Who?\nquestion_column: q",
         ["line 7: annotate.0.question: name either 'question' or 'question_column'"]),
        ("task: question-answering", ["line 4: annotate.0.question: name either 'question' or 'question_column'"]),
        ("task: question-answering\nquestion: ' '",
         ["line 7: annotate.0.question: expected a text, found only blanks"]),
        ("task: question-answering\nquestion: Who?\nstride: 3",
         ["line 8: annotate.0.stride: question-answering calls it 'doc_stride'"]),
        ("task: question-answering\nquestion: Who?\nmax_answer_len: 0\ndoc_strid: 3",
         ["line 8: annotate.0.max_answer_len: expected a whole number of at least 1, found the number 0",
          "line 9: annotate.0.doc_strid: unknown key (did you mean 'doc_stride'?)"]),
        ("task: fill-mask\ntop_k: none",
         ["line 7: annotate.0.top_k: expected a whole number of at least 1, found 'none'"]),
        ("task: fill-mask\ntargets: red", ["line 7: annotate.0.targets: expected a list, found 'red'"]),
        ("task: fill-mask\ntargets: [red, '']",
         ["line 7: annotate.0.targets.1: expected text that is not empty, found ''"]),
        ("task: fill-mask\ntargets: []", ["line 7: annotate.0.targets: expected a list that is not empty"]),
        ("task: multiple-choice", ["line 4: annotate.0.choices: required key is missing"]),
        ("task: multiple-choice\nchoices: []",
         ["line 7: annotate.0.choices: expected a list that is not empty"]),
        ("task: multiple-choice\nchoices: [c1, 2]",
         ["line 7: annotate.0.choices.1: expected a string, found the number 2 (put it in quotes)"]),
        ("task: multiple-choice\nchoices: [c1, c2]\nevidence: true",
         ["line 8: annotate.0.evidence: unknown key (expected one of name, task, model, revision, max_length, stride, "
          "choices, reduction)"]),
        ("task: feature-extraction\npooling: sum",
         ["line 7: annotate.0.pooling: expected 'cls', 'mean', 'max' or 'none', found 'sum'"]),
        ("task: feature-extraction\noutput: int8",
         ["line 7: annotate.0.output: int8 needs normalize: true, so that values lie between -1 and 1"]),
        ("task: feature-extraction\ntruncate_dim: 0",
         ["line 7: annotate.0.truncate_dim: expected a whole number of at least 1, found the number 0"]),
        ("task: zero-shot-classification", ["line 4: annotate.0.candidate_labels: required key is missing"]),
        ("task: zero-shot-classification\ncandidate_labels: [a, ' ']",
         ["line 7: annotate.0.candidate_labels.1: expected a label, found only blanks"]),
        ("task: zero-shot-classification\ncandidate_labels: [a, b, a]",
         ["line 7: annotate.0.candidate_labels.2: 'a' is listed twice"]),
        ("task: zero-shot-classification\ncandidate_labels: [a]\nreduction: sum",
         ["line 8: annotate.0.reduction: expected 'mean', 'max', 'length_weighted' or 'first', found 'sum'"]),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named_with_line_and_key(tmp_path, entry, messages):
    assert lines_of(tmp_path, entry) == messages


@pytest.mark.parametrize(
    "template", ["no place", "{} and {}", "{0} {}", "{{}}", "}{", "{ }", "{1}", "{0.x}", "{!r}", "{:>9}"]
)
def test_a_template_has_one_place_for_the_label(tmp_path, template):
    assert lines_of(
        tmp_path, f"task: zero-shot-classification\ncandidate_labels: [a]\nhypothesis_template: '{template}'"
    ) == [
        "line 8: annotate.0.hypothesis_template: expected exactly one '{}' or '{0}' for the label, and other "
        "braces doubled"
    ]


@pytest.mark.parametrize("kind", get_args(Annotation))
def test_sections_are_immutable_and_refuse_unknown_keys_in_python_too(kind):
    needed: dict[str, Any] = {
        "question-answering": {"question": "Who?"},
        "multiple-choice": {"choices": ["c"]},
        "zero-shot-classification": {"candidate_labels": ["a"]},
    }.get(kind.model_fields["task"].default, {})
    annotation = kind(name="a", **needed)
    with pytest.raises(ValidationError, match="frozen"):
        annotation.name = "b"
    with pytest.raises(ValidationError, match="Extra inputs"):
        kind(name="a", colour="red", **needed)


def test_options_of_the_command_line_are_yaml_and_the_last_of_a_key_wins():
    options = ["top_k=3", "candidate_labels=[red, 'no']", "question=Who is it?", "stride=", "a = b=c ", "top_k=4"]
    assert parse_options(options) == {
        "top_k": 4, "candidate_labels": ["red", "no"], "question": "Who is it?", "stride": None, "a": "b=c",
    }  # fmt: skip
    assert parse_options([]) == {}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("top_k", "-o top_k: expected KEY=VALUE"),
        ("=3", "-o : expected KEY=VALUE"),
        ("top.k=3", "-o top.k: expected KEY=VALUE"),
        ("x={a: 1, a: 2}", "-o x: key given twice, first on line 1"),
        ("x=[1", "-o x: not a YAML value: "),
        ("x=!!python/name:os.system", "-o x: the tag !!python/name:os.system is not supported"),
    ],
)
def test_a_malformed_option_is_named(option, message):
    with pytest.raises(ConfigError) as caught:
        parse_options(["good=1", option])
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).split("\n")) == 1
