"""Fill a model with the weights of a checkpoint folder, or say in one error everything that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from distilbatch.errors import CheckpointError
from distilbatch.model.checkpoint import ENCODER_PREFIX, Entry, read_checkpoint
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.source import Source
from distilbatch.model.weight_files import shown

Model = TypeVar("Model", bound=nn.Module)

_ENCODER_PARTS = ("embeddings.", "transformer.")
_CLASSIFIER = "classifier."  # its tensors have one row for each label
_POOLER = "pooler."  # BERT's, which some exports carry along; no output of DistilBERT depends on it


@dataclass(frozen=True)
class Origin:
    """Where the weights of a loaded model came from.

    Args:
        source: The folder, and the hub's commit if there is one.
        new_weights: Weights that the checkpoint lacks, freshly initialised; sorted.
        unused_weights: Tensors of the checkpoint that the model has no place for, such as another head; sorted.
    """

    source: Source
    new_weights: tuple[str, ...]
    unused_weights: tuple[str, ...]


def load(
    build: Callable[[DistilBertConfig], Model],
    source: Source,
    *,
    prefix: str,
    dtype: torch.dtype,
    device: torch.device | str,
    new_head: bool,
    allow_pickle: bool,
) -> tuple[Model, Origin]:
    """Build a model and fill it with the weights of a checkpoint.

    Args:
        build: Makes the model of a config.
        source: The checkpoint.
        prefix: ``"distilbert."`` if the encoder is a part of the model, empty if it is the model.
        dtype: Of the weights.
        device: Of the weights.
        allow_pickle: Read a pickle, as tensors only, where there is nothing else.
        new_head: Keep fresh weights where the checkpoint has none for the head, and ignore other heads.

    Raises:
        CheckpointError: Tensors are missing, unexpected, mis-shaped, of a wrong type or not finite; one error
            names them all. Nothing of the config's size is allocated before the shapes have been compared.
    """
    checkpoint = read_checkpoint(source.folder, allow_pickle=allow_pickle)
    config = checkpoint.config
    misfit = _Misfit(config.num_labels)
    entries, outside = _align(checkpoint.entries, prefix, misfit)
    model, wanted = _sketch(build, config)
    if not _settle_ties(entries, model, wanted):
        config = replace(config, tie_word_embeddings=False)
        model, wanted = _sketch(build, config)
    new, unused = set(wanted) - set(entries), set(entries) - set(wanted)
    # An encoder leaves every head alone; a model with a head does so on request only, for its own may be misspelt.
    misfit.missing += [name for name in new if not new_head or name.startswith(prefix)]
    misfit.unexpected += unused - outside if new_head or not prefix else unused
    tensors = {name: _read(name, entries[name], wanted[name], dtype, misfit) for name in wanted if name in entries}
    misfit.check(source.folder, type_name=type(model).__name__, prefix=prefix)
    if new:
        model = build(config).to(dtype)
        model.load_state_dict(tensors, strict=False)
        model = model.to(device)
    else:
        model.load_state_dict({name: tensor.to(device) for name, tensor in tensors.items()}, strict=False, assign=True)
    return model, Origin(source, tuple(sorted(new)), tuple(sorted(unused)))


@dataclass
class _Misfit:
    """Everything about a checkpoint that does not fit a model whose config names ``num_labels`` classes."""

    num_labels: int
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    num_classes: int = 0  # of the checkpoint's classifier, where it was trained for other labels

    def check(self, folder: Path, *, type_name: str, prefix: str) -> None:
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.shapes,
            "not floating point": self.dtypes,
            "with NaN or infinity": self.not_finite,
        }
        found = ", and ".join(f"{len(names)} {kind}: {shown(names)}" for kind, names in kinds.items() if names)
        if not found:
            return
        raise CheckpointError(
            f"checkpoint {folder}: its tensors do not fit {type_name}", found=found, remedy=self._remedy(prefix)
        )

    def _remedy(self, prefix: str) -> str:
        others = (self.missing, self.unexpected, self.dtypes, self.not_finite)
        if self.num_classes and not any(others) and all(shape.startswith(_CLASSIFIER) for shape in self.shapes):
            return (
                f"the head was trained for {self.num_classes} classes and config.json names {self.num_labels}: correct "
                "its id2label, label2id and num_labels"
            )
        if prefix and self.missing and not any(name.startswith(prefix) for name in self.missing):
            return (
                "this checkpoint has no such head: choose one that was trained for the task, or start a new head "
                "with new_head=True"
            )
        damaged = self.missing or self.shapes or self.dtypes or self.not_finite
        if prefix and not damaged and not any(name.startswith(prefix) for name in self.unexpected):
            return (
                "DistilBERT computes nothing with them: load the checkpoint through the class it was saved from, or "
                "leave them out with new_head=True if the model was trained without them"
            )
        return "fetch the checkpoint again, or correct its config.json"


def _align(entries: Mapping[str, Entry], prefix: str, misfit: _Misfit) -> tuple[dict[str, Entry], set[str]]:
    # The encoder's names with or without "distilbert.", as the model has them, and which names are not the encoder's.
    aligned: dict[str, Entry] = {}
    outside: set[str] = set()
    for name, entry in entries.items():
        bare = name.removeprefix(ENCODER_PREFIX)
        if bare.startswith(_POOLER):
            target = bare
            outside.add(target)
        elif name != bare or name.startswith(_ENCODER_PARTS):
            target = prefix + bare
        else:
            target = name
            outside.add(target)
        if target in aligned:
            misfit.unexpected.append(name)
        else:
            aligned[target] = entry
    return aligned, outside


def _sketch(
    build: Callable[[DistilBertConfig], Model], config: DistilBertConfig
) -> tuple[Model, Mapping[str, nn.Parameter | Tensor]]:
    # A model without memory, and what is to be read for it: a tied weight only under its first name.
    with torch.device("meta"):
        model = build(config)
    return model, dict(model.named_parameters()) | dict(model.named_buffers())


def _settle_ties(entries: dict[str, Entry], model: nn.Module, wanted: Mapping[str, Tensor]) -> bool:
    # A tied weight may be stored under either name, or under both if they are equal. If they are not, the config is
    # wrong about it, and the two are read as they are; so does the reference from version 5 on.
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in wanted or name not in entries:
            continue
        first = next(other for other in wanted if wanted[other] is tensor)
        if first in entries and not torch.equal(entries[name].read(), entries[first].read()):
            return False
        entries.setdefault(first, entries.pop(name))
    return True


def _read(name: str, entry: Entry, wanted: Tensor, dtype: torch.dtype, misfit: _Misfit) -> Tensor:
    if entry.shape != tuple(wanted.shape):
        misfit.shapes.append(f"{name} {list(entry.shape)} in place of {list(wanted.shape)}")
        same_width = entry.shape[1:] == tuple(wanted.shape[1:])
        if name.startswith(_CLASSIFIER) and same_width and wanted.shape[0] == misfit.num_labels:
            misfit.num_classes = entry.shape[0]
        return wanted
    tensor = entry.read()
    if not tensor.is_floating_point():
        misfit.dtypes.append(f"{name} {str(tensor.dtype).removeprefix('torch.')}")
        return wanted
    tensor = tensor.to(dtype)
    if not _is_finite(tensor):  # after the cast: float16 may overflow
        misfit.not_finite.append(name)
    return tensor


def _is_finite(tensor: Tensor) -> bool:
    # One pass without a copy, where isfinite() makes three: a NaN is both the least and the greatest value.
    return tensor.numel() == 0 or all(bool(bound.isfinite()) for bound in torch.aminmax(tensor))
