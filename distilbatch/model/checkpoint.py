"""Checkpoint folders in Hugging Face's form: safetensors weights and ``config.json``, read strictly, written whole.

Names are brought to one form on the way in. A pickle is opened on request only, and then for tensors only.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from distilbatch.errors import CheckpointError
from distilbatch.model.configuration import CONFIG_FILE, DistilBertConfig
from distilbatch.model.files import new_folder, sync
from distilbatch.model.weight_files import WEIGHTS_FILE, choose_weights, is_index, read_index, shown
from distilbatch.oserrors import what_is_at

ENCODER_PREFIX = "distilbert."

_LEGACY_SUFFIXES = {".gamma": ".weight", ".beta": ".bias"}  # layer norms of checkpoints converted from TensorFlow
_DTYPES = ("dtype", "torch_dtype")  # keys of config.json, of newer and older releases
_IGNORED_SUFFIXES = (".position_ids",)  # a constant that older releases stored
# A pickle is a program: one with a wrong byte fails in whatever way its wrong step does.
_UNREADABLE = (
    *(pickle.UnpicklingError, struct.error, EOFError, OSError, RuntimeError, ValueError, LookupError),
    *(TypeError, AttributeError, AssertionError, ArithmeticError),
)


@dataclass(frozen=True)
class Entry:
    """A tensor that is not read yet.

    Args:
        shape: Its shape.
        read: Reads it into memory of its own; raises CheckpointError where the file cannot be read.
    """

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A folder's config and the place of each of its tensors; no weight is read yet.

    Args:
        folder: The folder.
        config: Its ``config.json``.
        entries: Tensors by name, legacy suffixes renewed, constants left out.
    """

    folder: Path
    config: DistilBertConfig
    entries: Mapping[str, Entry]


def read_checkpoint(folder: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Read the config and the tensor index of a DistilBERT folder.

    Raises:
        CheckpointError: A file is missing, damaged, unsafe, or of another model.
    """
    check_folder(folder)
    config = DistilBertConfig.from_file(folder / CONFIG_FILE)
    return Checkpoint(folder, config, read_entries(folder, allow_pickle=allow_pickle))


def check_folder(folder: Path) -> None:
    """Refuse what is not a folder.

    Raises:
        CheckpointError: ``folder`` does not exist or is a file.
    """
    if not os.path.isdir(folder):
        raise CheckpointError(
            f"checkpoint {folder}",
            expected="a folder with config.json and model.safetensors",
            found=what_is_at(folder),
            remedy="check the path; a hub id has the form org/name",
        )


def read_entries(folder: Path, *, allow_pickle: bool = False) -> dict[str, Entry]:
    """List the tensors of a folder, in one safetensors file or in shards, by their renewed names.

    Args:
        folder: The folder.
        allow_pickle: Read ``pytorch_model.bin`` where there are no safetensors, as tensors only.

    Raises:
        CheckpointError: There are none, only a pickle that is not allowed, or a file is damaged.
    """
    names = [path.name for path in folder.iterdir() if path.is_file()]
    weights = folder / choose_weights(names, f"checkpoint {folder}", allow_pickle=allow_pickle)
    found = _list_shards(weights) if is_index(weights.name) else _list_file(weights)
    entries: dict[str, Entry] = {}
    for key, entry in found.items():
        name = _renew(key)
        if name in entries:
            raise CheckpointError(
                f"checkpoint {folder}: two tensors are {name}", found=key, remedy="fetch the checkpoint again"
            )
        if not key.endswith(_IGNORED_SUFFIXES):
            entries[name] = entry
    return entries


def save(folder: Path, config: DistilBertConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``folder``.

    A folder that is new or empty appears whole or not at all. In another, the two files are replaced one after the
    other: a crash leaves each of them old or new, never half written.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    config = replace(config, extra=_with_dtype(config.extra, tensors))
    if not os.path.exists(folder) or (os.path.isdir(folder) and not any(folder.iterdir())):
        with new_folder(folder) as temporary:
            _write(temporary, config, tensors)
    else:
        _write(folder, config, tensors)


def _with_dtype(extra: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    # The reference loads weights in the type that the config names, not in the one that they have.
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values() if tensor.is_floating_point()}
    written = dtypes.pop() if len(dtypes) == 1 else None
    return {key: written if key in _DTYPES else value for key, value in extra.items()}


def _write(folder: Path, config: DistilBertConfig, tensors: Mapping[str, Tensor]) -> None:
    try:
        weights, settings = folder / f".{WEIGHTS_FILE}.tmp", folder / f".{CONFIG_FILE}.tmp"
        save_tensors(weights, tensors)
        config.save(settings)
        for temporary, name in ((weights, WEIGHTS_FILE), (settings, CONFIG_FILE)):
            sync(temporary)
            temporary.replace(folder / name)
    except OSError as exc:
        raise CheckpointError(f"checkpoint {folder}: cannot be written", found=str(exc)) from exc


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file.

    Raises:
        CheckpointError: It cannot be written.
    """
    metadata = {"format": "pt"}  # the reference refuses files without it
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata)
        path.chmod(path.parent.stat().st_mode & 0o666)  # the library makes it private; its folder says who may read
    except (OSError, SafetensorError) as exc:
        raise CheckpointError(f"checkpoint {path.parent}: cannot be written", found=str(exc)) from exc


def list_tensors(path: Path) -> dict[str, Entry]:
    """List the tensors of one safetensors file by the names they have there.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    with _safetensors(path) as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in sorted(file.keys())}
    return {key: Entry(shape, partial(_read_tensor, path, key)) for key, shape in shapes.items()}


def _read_tensor(path: Path, key: str) -> Tensor:
    with _safetensors(path) as file:
        # A copy, because the tensor read is a view of the mapped file, which changes if somebody rewrites it.
        tensor: Tensor = file.get_tensor(key).clone()
        return tensor


def _list_shards(index: Path) -> dict[str, Entry]:
    weight_map = read_index(index)
    shards = {name: _list_file(index.parent / name) for name in sorted(set(weight_map.values()))}
    lost = [f"{key} of {name}" for key, name in weight_map.items() if key not in shards[name]]
    if lost:
        raise CheckpointError(
            f"{index}: names tensors its files lack", found=shown(lost), remedy="fetch the checkpoint again"
        )
    return {key: shards[name][key] for key, name in weight_map.items()}


def _list_file(path: Path) -> dict[str, Entry]:
    return _unpickle(path) if path.suffix == ".bin" else list_tensors(path)


def _unpickle(path: Path) -> dict[str, Entry]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as exc:
        raise CheckpointError(
            f"{path}: cannot be read as tensors only",
            found=f"{type(exc).__name__} {exc}".splitlines()[0],
            remedy="do not use this checkpoint",
        ) from exc
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(
            f"{path}: not a state dict",
            expected="tensors by name",
            found=type(tensors).__name__,
            remedy="save the model's state_dict() only, best as safetensors",
        )
    return {str(key): Entry(tuple(tensor.shape), tensor.clone) for key, tensor in tensors.items()}


@contextmanager
def _safetensors(path: Path) -> Iterator[Any]:  # the library has no types
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (OSError, SafetensorError) as exc:
        raise CheckpointError(
            f"{path}: cannot be read as safetensors", found=str(exc), remedy="fetch the checkpoint again"
        ) from exc


def _renew(key: str) -> str:
    for old, new in _LEGACY_SUFFIXES.items():
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key
