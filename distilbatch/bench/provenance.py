"""Where a report comes from: the command, when it was given, and the code that it ran."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from distilbatch import __version__

CHANGED = "+changes"
TIMEOUT_S = 10.0  # of git: on a slow file system it is not worth more
_PACKAGE = Path(__file__).parents[1]
_REDIRECTIONS = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"}


def describe_provenance(words: Sequence[str]) -> dict[str, Any]:
    """Ask before measuring: files may change while that goes on.

    Args:
        words: The command line after ``distilbatch``, as it was typed.

    Returns:
        In JSON values: ``command``, ``date`` (UTC), ``version`` and ``commit``, which may be None.
    """
    return {
        "command": shlex.join(["distilbatch", *words]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": __version__,
        "commit": commit_of(_PACKAGE),
    }


def commit_of(package: Path) -> str | None:
    """The commit that a package's files are of, ``+changes`` where tracked ones differ from it.

    Args:
        package: Its folder.

    Returns:
        None where git does not track the package, is missing or cannot tell: an installed package is of no commit,
        even inside somebody's repository.
    """
    if _ask_git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _ask_git(package, "rev-parse", "--verify", "HEAD")
    changes = _ask_git(package, "status", "--porcelain", "--untracked-files=no", "--", ".")
    if not commit or changes is None:
        return None
    return commit + CHANGED if changes else commit


def _ask_git(folder: Path, *arguments: str) -> str | None:
    """What git says about a folder; None where it fails."""
    # Of the folder's own repository, even in a hook of another one; and without locks that disturb who works there.
    environ = {name: value for name, value in os.environ.items() if name not in _REDIRECTIONS}
    environ["GIT_OPTIONAL_LOCKS"] = "0"
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env=environ,
            timeout=TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", errors="replace").strip() if done.returncode == 0 else None
