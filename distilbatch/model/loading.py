"""Fill a model with the weights of a checkpoint folder, or say in one error everything that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from distilbatch.errors import CheckpointError
from distilbatch.model.checkpoint import ENCODER_PREFIX, Entry, read_checkpoint, shown
from distilbatch.model.configuration import DistilBertConfig

Model = TypeVar("Model", bound=nn.Module)

_ENCODER_PARTS = ("embeddings.", "transformer.")


def load(
    build: Callable[[DistilBertConfig], Model],
    folder: Path,
    *,
    prefix: str,
    dtype: torch.dtype,
    device: torch.device | str,
    new_head: bool,
    allow_pickle: bool,
) -> Model:
    """Build a model and fill it with the weights of a folder.

    Args:
        build: Makes the model of a config.
        folder: The checkpoint.
        prefix: ``"distilbert."`` if the encoder is a part of the model, empty if it is the model.
        dtype: Of the weights.
        device: Of the weights.
        allow_pickle: Read a pickle, as tensors only, where there is nothing else.
        new_head: Keep fresh weights where the checkpoint has none for the head, and ignore other heads.

    Raises:
        CheckpointError: Tensors are missing, unexpected, mis-shaped, of a wrong type or not finite; one error
            names them all. Nothing of the config's size is allocated before the shapes have been compared.
    """
    source = read_checkpoint(folder, allow_pickle=allow_pickle)
    with torch.device("meta"):
        model = build(source.config)
    wanted = dict(model.named_parameters()) | dict(model.named_buffers())  # a tied weight only under its first name
    misfit = _Misfit()
    entries = _align(source.entries, prefix, misfit)
    _settle_ties(entries, model, wanted, misfit)
    misfit.missing += set(wanted) - set(entries)
    misfit.unexpected += set(entries) - set(wanted)
    if new_head:
        misfit.missing = [name for name in misfit.missing if name.startswith(prefix)]
        misfit.unexpected = [name for name in misfit.unexpected if name.startswith(prefix)]
    tensors = {name: _read(name, entries[name], wanted[name], dtype, misfit) for name in wanted if name in entries}
    misfit.check(folder, type_name=type(model).__name__, prefix=prefix)
    if len(tensors) < len(wanted):
        model = build(source.config).to(dtype)
        model.load_state_dict(tensors, strict=False)
        return model.to(device)
    model.load_state_dict({name: tensor.to(device) for name, tensor in tensors.items()}, strict=False, assign=True)
    return model


@dataclass
class _Misfit:
    """Everything about a checkpoint that does not fit a model."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    untied: list[str] = field(default_factory=list)

    def check(self, folder: Path, *, type_name: str, prefix: str) -> None:
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.shapes,
            "not floating point": self.dtypes,
            "with NaN or infinity": self.not_finite,
            "tied by the config but different": self.untied,
        }
        found = ", and ".join(f"{len(names)} {kind}: {shown(names)}" for kind, names in kinds.items() if names)
        if not found:
            return
        headless = prefix and self.missing and not any(name.startswith(prefix) for name in self.missing)
        raise CheckpointError(
            f"checkpoint {folder}: its tensors do not fit {type_name}",
            found=found,
            remedy="this checkpoint has no such head: choose one that was trained for the task, or start a new head "
            "with new_head=True"
            if headless
            else "fetch the checkpoint again, or correct its config.json",
        )


def _align(entries: Mapping[str, Entry], prefix: str, misfit: _Misfit) -> dict[str, Entry]:
    # The encoder's names with or without "distilbert.", as the model has them; a bare encoder leaves heads alone.
    aligned: dict[str, Entry] = {}
    for name, entry in entries.items():
        bare = name.removeprefix(ENCODER_PREFIX)
        in_encoder = name != bare or name.startswith(_ENCODER_PARTS)
        target = prefix + bare if in_encoder else name
        if target in aligned:
            misfit.unexpected.append(name)
        elif in_encoder or prefix:
            aligned[target] = entry
    return aligned


def _settle_ties(entries: dict[str, Entry], model: nn.Module, wanted: Mapping[str, Tensor], misfit: _Misfit) -> None:
    # A tied weight may be stored under either name, or under both if they are equal.
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in wanted or name not in entries:
            continue
        first = next(other for other in wanted if wanted[other] is tensor)
        entry = entries.pop(name)
        if first not in entries:
            entries[first] = entry
        elif not torch.equal(entry.read(), entries[first].read()):
            misfit.untied.append(f"{name} and {first}")


def _read(name: str, entry: Entry, wanted: Tensor, dtype: torch.dtype, misfit: _Misfit) -> Tensor:
    if entry.shape != tuple(wanted.shape):
        misfit.shapes.append(f"{name} {list(entry.shape)} in place of {list(wanted.shape)}")
        return wanted
    tensor = entry.read()
    if not tensor.is_floating_point():
        misfit.dtypes.append(f"{name} {str(tensor.dtype).removeprefix('torch.')}")
        return wanted
    tensor = tensor.to(dtype)
    if not bool(tensor.isfinite().all()):  # after the cast: float16 may overflow
        misfit.not_finite.append(name)
    return tensor
