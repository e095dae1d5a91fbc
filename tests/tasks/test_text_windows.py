"""Two texts of which the main one is read in windows, against the model run on each window and a slow loop."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import load_heads, random_text, run_heads, write_model

from distilbatch.engine.annotated import AnnotatedBuffer
from distilbatch.engine.spec import HeadSpec
from distilbatch.errors import ConfigError
from distilbatch.model.auto import load
from distilbatch.model.modeling import DistilBertForMultipleChoice, DistilBertForSequenceClassification
from distilbatch.records import HeadOutput, Sequences, TokenBatch, TokenDetails
from distilbatch.tasks.base import NOT_FINITE, OUT_OF_MEMORY, Asked
from distilbatch.tasks.multiple_choice import MultipleChoiceOptions, MultipleChoiceTask
from distilbatch.tasks.text_windows import REDUCTIONS
from distilbatch.tasks.zero_shot import ZeroShotClassificationOptions, ZeroShotClassificationTask
from distilbatch.tokenization import DistilBertTokenizer

CLASSES = ("contradiction", "neutral", "entailment")
LABELS = ("red", "a river of the 東京大学", "unbelievably")
MAX_LENGTH = 24
ROOM = MAX_LENGTH - 3
CLS, SEP = 101, 102


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("windows")
    return {
        "classes": write_model(
            DistilBertForSequenceClassification, root / "classes", id2label=dict(enumerate(CLASSES)), seed=7
        ),
        "choice": write_model(DistilBertForMultipleChoice, root / "choice", seed=3),
    }


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(11)
    return [random_text(rng, most) for most in (1, 5, 12, 20, 40, 60) for _ in range(3)]


@dataclass
class Window:
    """A window by hand: where it is, how many tokens it has without the other text, and the logits beside each other.

    ``cut`` says whether one of the others was too long.
    """

    place: tuple[int, int]
    tokens: int
    logits: np.ndarray
    cut: bool


class ByHand:
    """Cuts a text as the documentation says and runs the model on one window after the other."""

    def __init__(self, folder: Path) -> None:
        self._model = load(folder).eval()
        self._tokenizer = DistilBertTokenizer.from_pretrained(folder)

    def windows(self, text: str, others: Sequence[str], *, stride: int) -> list[Window]:
        whole = self._tokenizer(text, return_offsets=True)
        ids, offsets = whole.input_ids[1:-1].tolist(), whole.offsets[1:-1].tolist()
        beside = [self._tokenizer(other).input_ids[1:-1].tolist() for other in others]
        most = max(ROOM // 2, ROOM - len(ids))  # what does not fit beside the text, or beside half of the room, is cut
        cut = any(len(other) > most for other in beside)
        beside = [other[:most] for other in beside]
        size = ROOM - max(map(len, beside))
        found, start = [], 0
        while True:
            piece = ids[start : start + size]
            logits = [self._logits([CLS, *piece, SEP, *other, SEP]) for other in beside]
            place = (offsets[start][0], offsets[start + len(piece) - 1][1])
            found.append(Window(place, len(piece) + 3, np.stack(logits), cut))
            if start + size >= len(ids):
                return found
            start += size - stride

    def _logits(self, ids: list[int]) -> np.ndarray:
        with torch.inference_mode():
            if isinstance(self._model, DistilBertForMultipleChoice):
                return self._model(torch.tensor([[ids]])).logits[0].numpy()
            return self._model(torch.tensor([ids])).logits[0].numpy()


def softmax(values: np.ndarray) -> np.ndarray:
    return np.exp(values) / np.exp(values).sum()


def reduce_slowly(scores: list[np.ndarray], windows: list[Window], reduction: str) -> list[float]:
    columns = list(zip(*scores, strict=True))
    if reduction == "first":
        return [column[0] for column in columns]
    if reduction == "max":
        return [max(column) for column in columns]
    weights = [window.tokens if reduction == "length_weighted" else 1 for window in windows]
    return [sum(w * score for w, score in zip(weights, column, strict=True)) / sum(weights) for column in columns]


def spec(folder: Path, task: str, **arguments: Any) -> HeadSpec:
    roles = {
        "zero-shot-classification": (("text", "text"),),
        "multiple-choice": (("prompt", "text"), ("choices", "other")),
        "text-classification": (("text", "text"), ("text_pair", "other")),
    }
    return HeadSpec("found", task, folder, roles[task], **arguments)


def assert_ranked(found: dict, names: Sequence[str], expected: list[float]) -> None:
    scores = {item["label"]: item["score"] for item in found["scores"]}
    assert scores == pytest.approx(dict(zip(names, expected, strict=True)), abs=1e-4)
    assert (found["label"], found["score"]) == (found["scores"][0]["label"], max(scores.values()))


def assert_evidence(found: list[dict], names: Sequence[str], scores: list[np.ndarray], windows: list[Window]) -> None:
    assert [(item["start"], item["end"]) for item in found] == [window.place for window in windows]
    assert [item["label"] for item in found] == [names[int(each.argmax())] for each in scores]
    assert [item["score"] for item in found] == pytest.approx([each.max() for each in scores], abs=1e-4)


def assert_counted(result: AnnotatedBuffer, row: int, windows: list[Window]) -> None:
    assert result.num_windows[row] == len(windows)
    assert (result.errors[row], bool(result.truncated[row])) == (None, windows[0].cut)
    assert result.statuses[row].value == ("truncated" if windows[0].cut else "ok")


@pytest.mark.parametrize("stride", [0, 5])
@pytest.mark.parametrize("multi_label", [False, True], ids=["each other", "one by one"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_labels_of_a_long_text_are_those_of_its_windows(folders, texts, reduction, multi_label, stride):
    options = {"candidate_labels": LABELS, "hypothesis_template": "{}", "multi_label": multi_label}
    options |= {"reduction": reduction, "evidence": True}
    head = spec(folders["classes"], "zero-shot-classification", max_length=MAX_LENGTH, stride=stride, options=options)
    result = run_heads(load_heads(head), {"text": [None, *texts]})
    by_hand = ByHand(folders["classes"])
    for row, (text, found) in enumerate(zip(texts, result.columns[0].to_pylist()[1:], strict=True), start=1):
        windows = by_hand.windows(text, LABELS, stride=stride)
        assert_counted(result, row, windows)
        if multi_label:
            scores = [np.array([softmax(each[[0, 2]])[1] for each in window.logits]) for window in windows]
        else:
            scores = [softmax(window.logits[:, 2]) for window in windows]
        assert_ranked(found, LABELS, reduce_slowly(scores, windows, reduction))
        assert_evidence(found["windows"], LABELS, scores, windows)
    assert result.num_windows.max() > 4


@pytest.mark.parametrize("stride", [0, 5])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_choices_of_a_long_prompt_are_those_of_its_windows(folders, texts, reduction, stride):
    rng = random.Random(3)
    choices = [[random_text(rng, 2) for _ in range(rng.randint(2, 5))] for _ in texts]
    options = {"reduction": reduction}
    head = spec(folders["choice"], "multiple-choice", max_length=MAX_LENGTH, stride=stride, options=options)
    result = run_heads(load_heads(head), {"text": texts, "other": choices})
    by_hand = ByHand(folders["choice"])
    columns = zip(texts, choices, result.columns[0].to_pylist(), strict=True)
    for row, (text, offered, found) in enumerate(columns):
        windows = by_hand.windows(text, offered, stride=stride)
        assert_counted(result, row, windows)
        expected = reduce_slowly([softmax(window.logits[:, 0]) for window in windows], windows, reduction)
        assert found["scores"] == pytest.approx(expected, abs=1e-4)
        assert (found["choice"], found["score"]) == (int(np.argmax(found["scores"])), max(found["scores"]))


@pytest.mark.parametrize("stride", [0, 5])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_classes_of_a_long_text_with_a_second_are_those_of_its_windows(folders, texts, reduction, stride):
    rng = random.Random(5)
    others = [random_text(rng, 3) for _ in texts]
    options = {"pair": True, "top_k": 3, "reduction": reduction, "evidence": True}
    head = spec(folders["classes"], "text-classification", max_length=MAX_LENGTH, stride=stride, options=options)
    result = run_heads(load_heads(head), {"text": texts, "other": others})
    by_hand = ByHand(folders["classes"])
    columns = zip(texts, others, result.columns[0].to_pylist(), strict=True)
    for row, (text, other, found) in enumerate(columns):
        windows = by_hand.windows(text, [other], stride=stride)
        assert_counted(result, row, windows)
        scores = [softmax(window.logits[0]) for window in windows]
        assert_ranked(found, CLASSES, reduce_slowly(scores, windows, reduction))
        assert_evidence(found["windows"], CLASSES, scores, windows)


TASKS: list[tuple[str, str, dict[str, Any]]] = [
    ("classes", "zero-shot-classification", {"candidate_labels": LABELS, "hypothesis_template": "{}"}),
    ("choice", "multiple-choice", {}),
    ("classes", "text-classification", {"pair": True, "top_k": 3}),
]


def columns_of(task: str, texts: Sequence[str | None], other: str) -> dict[str, Any]:
    others: dict[str, list[Any]] = {"multiple-choice": [[other, "red", other]], "text-classification": [other]}
    return {"text": list(texts), "other": others.get(task, [None]) * len(texts)}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("folder", "task", "options"), TASKS, ids=[task for _, task, _ in TASKS])
def test_what_fits_says_the_same_with_and_without_stride(folders, texts, folder, task, options, reduction):
    short = [text for text in texts if len(text) < 30]
    assert len(short) > 4
    first, second = (
        run_heads(
            load_heads(spec(folders[folder], task, stride=stride, options={**options, "reduction": reduction})),
            columns_of(task, short, "the blue river"),
        )
        for stride in (None, 9)
    )
    assert first.columns[0].equals(second.columns[0])
    assert first.num_windows.tolist() == second.num_windows.tolist() == [1] * len(short)


@pytest.mark.parametrize(("folder", "task", "options"), TASKS, ids=[task for _, task, _ in TASKS])
@pytest.mark.parametrize(("max_length", "stride"), [(5, 0), (6, 1), (8, 0), (8, 3), (24, 17), (64, None), (64, 52)])
def test_rows_of_every_kind_have_one_output_each(folders, folder, task, options, max_length, stride):
    zero_shot = task == "zero-shot-classification"
    if zero_shot:  # its second texts are never cut
        options = {**options, "candidate_labels": ["red", "river"]}
    texts = ["anna " * 90, None, "", "red", "\x01", " ", "red " * 300, "anna"]
    head = spec(folders[folder], task, max_length=max_length, stride=stride, options=options)
    result = run_heads(load_heads(head), columns_of(task, texts, "river " * 200))
    long = "ok" if zero_shot and stride is not None else "truncated"
    short = "ok" if zero_shot else "truncated"
    assert [status.value for status in result.statuses] == [
        long, "null", "empty", short, "empty", "empty", long, short
    ]  # fmt: skip
    assert result.errors == [None] * len(texts)
    found = result.columns[0].to_pylist()
    assert [value is not None for value in found] == [row in (0, 3, 6, 7) for row in range(len(texts))]
    for row in (0, 3, 6, 7):  # as if it were alone
        alone = run_heads(load_heads(head), columns_of(task, [texts[row]], "river " * 200))
        assert alone.num_windows[0] == result.num_windows[row] >= 1
        scores = [value["scores"] for value in (*alone.columns[0].to_pylist(), found[row])]
        if task == "multiple-choice":
            assert scores[0] == pytest.approx(scores[1], abs=1e-4)
        else:
            by_label = [{item["label"]: item["score"] for item in each} for each in scores]
            assert by_label[0] == pytest.approx(by_label[1], abs=1e-4)
    assert (result.num_windows[0] > 1) == (stride is not None)


@pytest.mark.parametrize(("folder", "task", "options"), TASKS, ids=[task for _, task, _ in TASKS])
def test_settings_that_cannot_work_are_refused_when_the_head_is_loaded(folders, folder, task, options):
    with pytest.raises(
        ConfigError, match=r"^annotation 'found': the stride of .* is too large; expected at most 18 for .* 24; found 1"
    ):
        load_heads(spec(folders[folder], task, max_length=24, stride=19, options=options))
    with pytest.raises(ConfigError, match="max_length is too small; expected at least 5 for two texts; found 4"):
        load_heads(spec(folders[folder], task, max_length=4, options=options))
    with pytest.raises(ConfigError, match=r"reduction is unknown; expected mean or max or .*; found 'sum'"):
        load_heads(spec(folders[folder], task, options={**options, "reduction": "sum"}))


def test_a_stride_that_leaves_single_texts_nothing_new_is_refused_when_the_head_is_loaded(folders):
    head = HeadSpec("found", "text-classification", folders["classes"], (("text", "text"),), 24, 22)
    with pytest.raises(
        ConfigError, match=r"stride of text windows is too large; expected at most 21 for .* 24; found 2"
    ):
        load_heads(head)


def asked_in_windows() -> Asked:
    """Three rows of two sequences of two windows."""
    sequences = Sequences(["t"] * 6, ["h"] * 6, np.repeat(np.arange(3), 2))
    windows = np.tile(np.array([0, 1], np.int32), 6)
    details = TokenDetails(np.zeros((12, 2), np.int32), np.ones(12, np.int8))
    tokens = TokenBatch(
        np.zeros(12, np.int32), np.arange(13), np.repeat(np.arange(6), 2), windows, np.zeros(12, np.bool_), details
    )
    return Asked({"text": ["t"] * 3}, sequences, tokens, num_rows=3)


def test_a_row_with_a_failed_window_is_an_error_and_the_others_are_not():
    present = np.array(
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11]
    )  # of the last row, a window beside its second text is missing
    logits = np.array([1, 2, 3, 5, 0, np.inf, 0, 0, 0, 0, 0], np.float32)
    first = (softmax(np.array([1, 3])) + softmax(np.array([2, 5]))) / 2
    choices = MultipleChoiceTask(MultipleChoiceOptions()).decode(
        HeadOutput(present, logits[:, None]), asked_in_windows()
    )
    assert choices.errors == {1: NOT_FINITE, 2: OUT_OF_MEMORY}
    assert choices.column.to_pylist()[1:] == [None, None]
    assert choices.column[0]["scores"].as_py() == pytest.approx(first, abs=1e-6)
    options = ZeroShotClassificationOptions(["a", "b"], evidence=True)
    output = HeadOutput(present, np.stack([np.zeros_like(logits), logits], axis=1))
    labels = ZeroShotClassificationTask(["no", "entailment"], options).decode(output, asked_in_windows())
    assert labels.errors == choices.errors
    assert labels.column.to_pylist()[1:] == [None, None]
    assert [item["score"] for item in labels.column[0]["scores"].as_py()] == pytest.approx(first[::-1], abs=1e-6)
    assert [item["label"] for item in labels.column[0]["windows"].as_py()] == ["b", "b"]
