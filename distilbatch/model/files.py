"""Files of a checkpoint folder that are no tensors: small JSON objects, and folders that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distilbatch.errors import CheckpointError, ConfigError

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    TOKENIZER_CONFIG_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
)
MAX_JSON_BYTES = 16 * 1024 * 1024  # a config is a few KiB; labels of a very large head still fit


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON object.

    Raises:
        CheckpointError: Missing, larger than 16 MiB, not UTF-8, not JSON, or not an object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise CheckpointError(
                f"{path}: too large",
                expected=f"at most {MAX_JSON_BYTES} bytes",
                found=f"{size} bytes",
                remedy="fetch the checkpoint again",
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise CheckpointError(f"{path}: no such file", remedy="point at a complete checkpoint folder") from exc
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read", found=str(exc), remedy="check its permissions") from exc
    except (ValueError, RecursionError) as exc:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise CheckpointError(f"{path}: not a JSON file", found=str(exc), remedy="fetch the checkpoint again") from exc
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path}: not a JSON object", found=type(value).__name__, remedy="fetch the checkpoint again"
        )
    return value


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target`` that becomes ``target`` if the block ends well, and is gone if not.

    Raises:
        ConfigError: ``target`` exists and is not an empty folder.
        CheckpointError: It cannot be written.
    """
    if os.path.exists(target) and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(
            f"output folder {target}",
            expected="a new or empty folder",
            found="files in it",
            remedy="name another folder, or remove this one first",
        )
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        temporary.chmod(0o755)  # mkdtemp makes it private; a model folder is shared
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        temporary.rename(target)  # over an empty folder this is as atomic as over none
        sync(target.parent)
    except OSError as exc:
        raise CheckpointError(f"checkpoint {target}: cannot be written", found=str(exc)) from exc
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
