"""Identities by content: canonical JSON and sha256 of values, files and file footers.

No clock, no random number and no ``hash()`` takes part in an identity, so two machines agree on it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

FOOTER_BYTES = 64 * 1024  # a Parquet footer holds offsets, sizes and statistics of every column chunk
_READ_BYTES = 1 << 20


def canonical_json(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Serialise ``value`` to the one byte string that stands for it: sorted keys, no spaces, UTF-8.

    Raises:
        TypeError: ``value`` holds something JSON has no form for.
        ValueError: ``value`` holds a float, whose text form is not canonical, or NaN.
    """
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _refuse_floats(value: object) -> None:
    if isinstance(value, float):
        raise ValueError(f"a float in a fingerprint: expected a string such as {str(value)!r}, found {value!r}")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_floats(item)


def fingerprint(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return the sha256 hex digest of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def stringify_floats(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Copy ``value`` with every float replaced by its shortest exact text, so that it can be hashed."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {key: stringify_floats(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [stringify_floats(item) for item in value]
    return value


def sha256_bytes(data: bytes) -> str:
    """Return the sha256 hex digest of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the sha256 hex digest of a whole file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def sha256_footer(path: Path, size_bytes: int) -> str:
    """Return the sha256 hex digest of the last 64 KiB of a file.

    Together with the size this is a file's identity: reading whole files would cost a pass over the data,
    and a modification time changes when a file is merely copied.
    """
    with path.open("rb") as file:
        file.seek(max(0, size_bytes - FOOTER_BYTES))
        return hashlib.sha256(file.read(FOOTER_BYTES)).hexdigest()


def fingerprint_checkpoint(folder: Path) -> str:
    """Return the identity of a checkpoint folder: weights, config, label names and tokenizer, by content.

    Args:
        folder: A folder in Hugging Face format; other files in it do not count.
    """
    there = {path.name for path in folder.iterdir()}
    # One file of weights is read alone; shards have any names. Other weights may come to a folder of a hub's cache.
    weights = {name for name in there if name.endswith((".safetensors", ".safetensors.index.json"))}
    names = sorted((there & _CHECKPOINT_FILES) | ({_WEIGHTS_FILE} if _WEIGHTS_FILE in there else weights))
    return fingerprint({name: sha256_file(folder / name) for name in names})


_WEIGHTS_FILE = "model.safetensors"
_CHECKPOINT_FILES = frozenset({"config.json", "tokenizer.json", "vocab.txt", "tokenizer_config.json"})
