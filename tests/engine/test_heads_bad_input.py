"""Bad rows and wrong checkpoints, for every task: rows become rows, and what is wrong with a checkpoint is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tiny_models import POSITIONS, load_heads, run_heads, write_model

from distilbatch.engine.registry import load_head
from distilbatch.engine.spec import HeadSpec
from distilbatch.errors import CheckpointError
from distilbatch.model.auto import ARCHITECTURES
from distilbatch.tasks.catalog import CHOICE, SEQUENCE, SPAN, TASK_HEADS, tasks_of

NLI = ("contradiction", "neutral", "entailment")
OPTIONS: dict[str, dict[str, Any]] = {
    "text-classification": {"pair": True},
    "zero-shot-classification": {"candidate_labels": ["red", "blue"]},
    "question-answering": {"question": "who?"},
}
ROLES = {
    "text-classification": (("text", "text"), ("text_pair", "other")),
    "question-answering": (("context", "text"),),
    "multiple-choice": (("prompt", "text"), ("choices", "choices")),
}
HEADS = sorted(set(TASK_HEADS.values()))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each architecture."""
    root = tmp_path_factory.mktemp("heads")
    return {head: write(head, root / head) for head in HEADS}


def write(head: str, folder: Path) -> Path:
    labels = {} if head == SPAN else {"id2label": dict(enumerate(NLI))}
    return write_model(ARCHITECTURES[head], folder, seed=1, **labels)


def spec(task: str, folder: Path, **arguments: Any) -> HeadSpec:
    options = OPTIONS.get(task, {})
    return HeadSpec("found", task, folder, ROLES.get(task, (("text", "text"),)), options=options, **arguments)


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


@pytest.mark.parametrize("stride", [None, 0, 7])
@pytest.mark.parametrize("max_length", [None, 16])
@pytest.mark.parametrize("task", TASK_HEADS)
def test_a_text_beyond_the_positions_is_cut_and_counted_or_read_in_windows(folders, task, max_length, stride):
    long = "[MASK] river " * (2 * POSITIONS)
    texts = ["[MASK] a", long, None, "\x01", "", long, "[MASK] b"]
    head = spec(task, folders[TASK_HEADS[task]], max_length=max_length, stride=stride)
    columns = {"text": texts, "other": ["red"] * 7, "choices": pa.array([["a", "b"]] * 7)}
    result = run_heads(load_heads(head), columns)
    windows = stride is not None or task == "question-answering"  # which has a stride of its own
    long_status = "ok" if windows else "truncated"
    assert [status.value for status in result.statuses] == [
        "ok", long_status, "null", "empty", "empty", long_status, "ok"
    ]  # fmt: skip
    assert result.errors == [None] * 7
    assert result.truncated.tolist() == [not windows and text == long for text in texts]
    assert [count > 1 for count in result.num_windows.tolist()] == [windows and text == long for text in texts]
    found = result.columns[0].to_pylist()
    assert [value is None for value in found] == [False, False, True, True, True, False, False]
    assert found[0] != found[1]
    assert found[1] == found[5]


@pytest.mark.parametrize("name", ["{}", ["{}"], ["TF{}"], ["Flax{}"], None, ["MyClassifier"]], ids=str)
@pytest.mark.parametrize("head", HEADS)
def test_a_head_does_its_tasks_and_is_named_where_another_is_needed(tmp_path, head, name):
    folder = write(head, tmp_path / "model")
    named = name is not None and "{}" in str(name)
    edit_config(folder, architectures=json.loads(json.dumps(name).replace("{}", head)))
    able = tasks_of(head)
    assert able
    for task, wanted in TASK_HEADS.items():
        if task in able:
            assert load_head(spec(task, folder)).spec.task == task
            continue
        if not named and (head, wanted) == (CHOICE, SEQUENCE):
            continue
        with pytest.raises(CheckpointError) as caught:
            load_head(spec(task, folder))
        error = caught.value
        assert error.what == f"annotation 'found': {folder} has another head"
        assert error.expected == f"{wanted}, which {task} needs"
        # By its tensors alone a choice's score may be a regression.
        found = [SEQUENCE, CHOICE] if head == CHOICE and not named else [head]
        assert error.found == ", ".join(found)
        does = dict.fromkeys(task for one in found for task in tasks_of(one))
        assert error.remedy == f"use another checkpoint, or a task it can do: {', '.join(does)}"


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "zero-shot-classification"])
@pytest.mark.parametrize("labels", [NLI[1:], (*NLI, "other")])
def test_labels_that_do_not_fit_the_head_are_told(tmp_path, task, labels):
    folder = write(TASK_HEADS[task], tmp_path / "model")
    edit_config(folder, id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)})
    with pytest.raises(CheckpointError) as caught:
        load_head(spec(task, folder))
    message = str(caught.value)
    assert f"classifier.weight [3, 32] in place of [{len(labels)}, 32]" in message
    assert message.endswith(
        f"the head was trained for 3 classes and config.json names {len(labels)}: correct its id2label, label2id and "
        "num_labels"
    )


@pytest.mark.parametrize("id2label", [{"0": "a", "2": "b"}, {"x": "a"}, ["a", "b"]])
def test_labels_that_are_no_list_of_classes_are_told(tmp_path, id2label):
    folder = write(SEQUENCE, tmp_path / "model")
    edit_config(folder, id2label=id2label)
    with pytest.raises(CheckpointError, match=r"config\.json: id2label; expected "):
        load_head(spec("text-classification", folder))
