"""Which files of a checkpoint hold its weights, by their names alone: one file, or shards and their index."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from distilbatch.errors import CheckpointError
from distilbatch.model.files import read_json

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILE = "pytorch_model.bin"
PICKLE_INDEX_FILE = "pytorch_model.bin.index.json"
WEIGHT_FILES = (WEIGHTS_FILE, INDEX_FILE, PICKLE_FILE, PICKLE_INDEX_FILE)  # the first of them that is there counts

_SHOWN = 5


def choose_weights(names: Collection[str], where: str, *, allow_pickle: bool) -> str:
    """Return the one of ``WEIGHT_FILES`` to read; an index stands for its shards.

    Args:
        names: The files that are there.
        where: Their place, for the error.
        allow_pickle: Whether it may be a pickle.

    Raises:
        CheckpointError: There is none, or only a pickle that is not allowed.
    """
    chosen = next((name for name in WEIGHT_FILES if name in names), None)
    if chosen is None:
        raise CheckpointError(
            f"{where}: no weights",
            expected=f"{WEIGHTS_FILE} or {INDEX_FILE}",
            found=shown(names) or "no files",
            remedy="fetch the checkpoint again",
        )
    if chosen in (PICKLE_FILE, PICKLE_INDEX_FILE) and not allow_pickle:
        raise CheckpointError(
            f"{where}: only {chosen}",
            expected=WEIGHTS_FILE,
            found="a pickle, which can run code when it is opened",
            remedy="save the model as safetensors, or load it with allow_pickle=True, which reads tensors only",
        )
    return chosen


def is_index(name: str) -> bool:
    """Whether one of ``WEIGHT_FILES`` names shards instead of holding tensors."""
    return name in (INDEX_FILE, PICKLE_INDEX_FILE)


def read_index(index: Path) -> dict[str, str]:
    """Return the shard of each tensor, a plain file name.

    Raises:
        CheckpointError: The index is damaged, or names files elsewhere.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{index}: weight_map",
            expected="tensor names and their files",
            found=type(weight_map).__name__,
            remedy="fetch the checkpoint again",
        )
    suffix = ".safetensors" if index.name == INDEX_FILE else ".bin"
    for key, name in weight_map.items():
        # A plain name only: an index must not reach files outside its folder, nor a pickle from among safetensors.
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(suffix):
            raise CheckpointError(
                f"{index}: file of {key}",
                expected=f"a {suffix[1:]} file in the same folder",
                found=repr(name),
                remedy="do not use this checkpoint",
            )
    return weight_map


def shown(names: Iterable[str]) -> str:
    """Return the first five names, sorted, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
