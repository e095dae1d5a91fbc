"""From the model that an annotation names to its files: once for a job, and again on a worker that lacks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distilbatch.config import AnnotationSection
from distilbatch.engine.spec import HeadSpec, HubCommit
from distilbatch.errors import CheckpointError
from distilbatch.fingerprint import fingerprint_checkpoint
from distilbatch.model.source import Source, locate_named


def resolve_heads(annotations: Sequence[AnnotationSection], text_column: str) -> tuple[HeadSpec, ...]:
    """Find the checkpoints of all annotations; a revision that several of them name is one commit for all.

    Raises:
        CheckpointError: A hub id cannot be fetched.
        ConfigError: A folder has a revision.
    """
    found: dict[tuple[str, str | None], Source] = {}
    for annotation in annotations:
        name = annotation.checkpoint, annotation.revision
        if name not in found:
            found[name] = locate_named(annotation.checkpoint, revision=annotation.revision)
    return tuple(
        head_spec(annotation, text_column, found[annotation.checkpoint, annotation.revision])
        for annotation in annotations
    )


def head_spec(annotation: AnnotationSection, text_column: str, source: Source) -> HeadSpec:
    """An annotation as plain arguments.

    Args:
        annotation: The annotation.
        text_column: The source's main text.
        source: Its checkpoint.
    """
    return HeadSpec(
        name=annotation.name,
        task=annotation.task,
        model=source.folder,
        columns=annotation.columns(text_column),
        max_length=annotation.max_length,
        stride=annotation.window_stride,
        options=annotation.options(),
        hub=HubCommit(source.repo_id, source.commit) if source.repo_id and source.commit else None,
    )


def at_hand(heads: Sequence[HeadSpec]) -> tuple[HeadSpec, ...]:
    """The heads with folders that are on this machine; what is not there, or in part only, is fetched.

    Raises:
        CheckpointError: A commit cannot be fetched, or its files are not the planned ones.
    """
    found: dict[Path, Path] = {}
    for head in heads:
        if head.hub is not None and head.model not in found:
            found[head.model] = head.model if _is_as_planned(head.model, head) else _fetched(head, head.hub)
    return tuple(replace(head, model=found.get(head.model, head.model)) for head in heads)


def _is_as_planned(folder: Path, head: HeadSpec) -> bool:
    # Another program may have left a part of the snapshot in the cache of this machine: a look at names is not enough.
    if not folder.is_dir():
        return False
    try:
        return head.fingerprint is None or fingerprint_checkpoint(folder) == head.fingerprint
    except OSError:
        return False


def _fetched(head: HeadSpec, hub: HubCommit) -> Path:
    # Its library takes a while to load, and where the files are at hand nobody needs it.
    from distilbatch.model.hub import fetch  # noqa: PLC0415

    folder = fetch(hub.repo_id, revision=hub.commit).folder
    if not _is_as_planned(folder, head):
        raise CheckpointError(
            f"annotation {head.name!r}: {hub} in {folder}",
            expected=f"the planned files, fingerprint {(head.fingerprint or '')[:12]}",
            found="others",
            remedy="remove the model from the cache of this machine, and run the same command again",
        )
    return folder
