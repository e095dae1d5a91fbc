"""Checks a head's checkpoint folder by its config, before any work is planned and before torch is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence

from distilbatch.engine.spec import HeadSpec
from distilbatch.errors import CheckpointError
from distilbatch.model.architectures import known_models
from distilbatch.model.configuration import CONFIG_FILE, DistilBertConfig
from distilbatch.oserrors import NOTHING, what_is_at
from distilbatch.tasks.catalog import ENCODER, TASK_HEADS, tasks_of


def check_head(head: HeadSpec) -> None:
    """Refuse a checkpoint that cannot do its task, by its config alone; weights are checked when it is loaded.

    Raises:
        CheckpointError: The folder is missing, is no DistilBERT checkpoint, or has another head.
    """
    if not os.path.isdir(head.model):
        found = what_is_at(head.model)
        raise CheckpointError(
            f"annotation {head.name!r}: model {str(head.model)!r}",
            expected="a checkpoint folder",
            found="no such folder" if found == NOTHING else found,
            remedy="give the folder, or make one with distilbatch convert or distilbatch demo; a hub id is org/name",
        )
    refuse_other_head(head, known_models(DistilBertConfig.from_file(head.model / CONFIG_FILE).architectures))


def refuse_other_head(head: HeadSpec, architectures: Sequence[str]) -> None:
    """Refuse a checkpoint whose head is not the one its task needs.

    Args:
        head: The annotation.
        architectures: Model classes of the checkpoint; none where they are not known.

    Raises:
        CheckpointError: It has another head.
    """
    wanted = TASK_HEADS[head.task]
    if architectures and wanted not in {*architectures, ENCODER}:
        able = [task for name in architectures for task in tasks_of(name)]
        raise CheckpointError(
            f"annotation {head.name!r}: {head.model} has another head",
            expected=f"{wanted}, which {head.task} needs",
            found=", ".join(architectures),
            remedy=f"use another checkpoint, or a task it can do: {', '.join(dict.fromkeys(able))}",
        )
