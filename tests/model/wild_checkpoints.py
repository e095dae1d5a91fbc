"""Small checkpoints in the forms that are found: one file or shards, safetensors or pickles, of today or of 2019."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from distilbatch.model.configuration import CONFIG_FILE

SIZES = {"vocab_size": 40, "max_position_embeddings": 16, "n_layers": 2, "n_heads": 2, "dim": 8, "hidden_dim": 12}
FORMS = ("safetensors", "safetensors shards", "pickle", "pickle of 2019", "pickle shards")
WORDS, DECODER = "distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"


def make(architecture: str, **changes) -> transformers.PreTrainedModel:
    """Make a small model of the reference in which no weight is zero or one."""
    torch.manual_seed(7)
    values = {**SIZES, "initializer_range": 0.3, **changes}
    model = getattr(transformers, architecture)(transformers.DistilBertConfig(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def write(folder: Path, model, form: str = "safetensors", *, tensors=None, config=None) -> Path:
    """Write a checkpoint in one of ``FORMS``; with other ``tensors`` or another ``config`` than the model's."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {**model.config.to_dict(), "architectures": [type(model).__name__]} if config is None else config
    (folder / CONFIG_FILE).write_text(json.dumps(values))
    tensors = published(model) if tensors is None else tensors
    kind = "model.safetensors" if form.startswith("safetensors") else "pytorch_model.bin"
    if not form.endswith("shards"):
        store(tensors, folder / kind, form)
        return folder
    names = sorted(tensors)
    weight_map = {name: f"part-{i % 3}.{kind.rpartition('.')[2]}" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        store({name: tensors[name] for name in names if weight_map[name] == file}, folder / file, form)
    (folder / f"{kind}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return folder


def store(tensors, path: Path, form: str) -> None:
    if form.startswith("safetensors"):
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form != "pickle of 2019")


def published(model) -> dict[str, torch.Tensor]:
    """Return the weights as safetensors files have them: a tied decoder only once."""
    return {name: tensor for name, tensor in model.state_dict().items() if name != DECODER}
