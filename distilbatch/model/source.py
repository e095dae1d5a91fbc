"""Where a checkpoint is: a folder of the user's, or a hub id, whose files ``hub.py`` fetches."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from distilbatch.errors import CheckpointError, ConfigError

DEFAULT_REVISION = "main"
PLACE = "a checkpoint folder, or a hub id such as distilbert/distilbert-base-uncased"

_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is.

    Args:
        folder: Its files; for a hub id, the snapshot of the commit in Hugging Face's cache.
        repo_id: The hub id; None for a folder of the user's.
        commit: The commit, 40 hex digits, that the revision stood for; None for a folder of the user's.
    """

    folder: Path
    repo_id: str | None = None
    commit: str | None = None


def locate(
    name: Path | str, *, revision: str | None = None, allow_pickle: bool = False, local_files_only: bool = False
) -> Source:
    """Tell a folder from a hub id, and fetch the latter.

    A ``Path``, whatever exists, and whatever cannot be a hub id (it starts with a dot, a slash or ``~``, or has more
    than one slash) is a folder; so is ``a/b`` where ``a`` is a folder here, for that is a mistyped path.

    Args:
        name: The folder or hub id.
        revision: A branch, tag or commit of the hub id; ``main`` without it.
        allow_pickle: As in ``hub.fetch``.
        local_files_only: As in ``hub.fetch``.

    Raises:
        CheckpointError: There is no such folder, or the hub id cannot be fetched.
        ConfigError: A revision of a folder.
    """
    path = Path(name)
    is_folder = isinstance(name, Path) or os.path.exists(name) or _HUB_ID.fullmatch(name) is None
    if not is_folder and len(path.parts) == 2 and os.path.isdir(path.parent):
        raise CheckpointError(
            f"checkpoint {name}",
            expected=PLACE,
            found=f"the folder {path.parent} without {path.name} in it",
            remedy="check the path; if the hub's model is meant, run where there is no such folder",
        )
    if is_folder and revision is not None:
        raise ConfigError(
            f"revision {revision} of {name}",
            expected="a hub id",
            found="a folder",
            remedy="leave the revision out, or check the id",
        )
    if is_folder:
        return Source(path)
    # Its library takes a while to load, and folders need none of it.
    from distilbatch.model.hub import fetch  # noqa: PLC0415

    return fetch(
        str(name), revision=revision or DEFAULT_REVISION, allow_pickle=allow_pickle, local_files_only=local_files_only
    )


def locate_named(name: Path | str, *, revision: str | None = None) -> Source:
    """Locate what a config or a command line names: only ``org/name`` is a hub id there.

    A single word is more often a mistyped folder than one of the few models without an organisation, and nobody wants
    to wait for the hub to find that out.

    Args:
        name: As in ``locate``.
        revision: As in ``locate``.

    Raises:
        CheckpointError: The hub id cannot be fetched.
        ConfigError: A revision of a folder.
    """
    return locate(name if "/" in str(name) else Path(name), revision=revision)
