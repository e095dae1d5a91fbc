"""New checkpoint folders out of old ones: BERT to DistilBERT, exactly, and an encoder with a trained head.

Every folder is written beside its final place, loaded once as a check, and then renamed: it is whole or absent.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.model.checkpoint import (
    ENCODER_PREFIX,
    Entry,
    check_folder,
    read_checkpoint,
    read_entries,
    save,
)
from distilbatch.model.configuration import CONFIG_FILE, DistilBertConfig
from distilbatch.model.files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILES, new_folder, read_json
from distilbatch.model.layers import LAYER_NORM_EPS
from distilbatch.model.modeling import DistilBertForSequenceClassification, DistilBertModel

_BERT_TOKENIZERS = ("BertTokenizer", "BertTokenizerFast")
_POSITIONS = "embeddings.position_embeddings.weight"
_TOKEN_TYPES = "embeddings.token_type_embeddings.weight"
_DROPPED = ("pooler.", "cls.", "classifier.", "qa_outputs.")
_BLOCK = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")
_BLOCK_PARTS = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
_CONFIG_KEYS = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "hidden_act": "activation",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
}
_BERT_SIZES = {  # what a BERT config leaves out when it is the default, where the two defaults differ
    "num_hidden_layers": 12,
}
_REQUIRED = {  # the only values for which the two models compute the same
    "position_embedding_type": "absolute",
    "layer_norm_eps": LAYER_NORM_EPS,
    "is_decoder": False,
    "add_cross_attention": False,
}


@dataclass(frozen=True)
class Conversion:
    """What ``convert_bert`` made.

    Args:
        folder: The new checkpoint.
        dropped: Tensors of the source that DistilBERT has no place for, by name.
        notes: What a reader has to know, one sentence each; empty when there is nothing.
    """

    folder: Path
    dropped: tuple[str, ...]
    notes: tuple[str, ...]


def convert_bert(source: Path, target: Path, *, labels: Sequence[str] = ()) -> Conversion:
    """Write a BERT encoder as a DistilBERT checkpoint that computes the same, for token type 0.

    The token-type embedding is constant where all tokens have type 0, so it is added, in float32, to every
    position embedding; all else is renamed. Poolers and heads are dropped: DistilBERT's classifier has a relu
    where BERT's has a tanh, so no conversion of a head is exact.

    Args:
        source: A BERT folder.
        target: A new or empty folder.
        labels: Labels to note in the config for a head that is to be trained.

    Raises:
        CheckpointError: ``source`` is not a complete BERT checkpoint, or uses something DistilBERT lacks.
        ConfigError: ``target`` is in use.
    """
    check_folder(source)
    config = _translate_config(source, labels)
    entries, dropped = _translate_names(source, config)
    with new_folder(target) as folder:
        types = entries.pop(_TOKEN_TYPES).read().float()
        tensors = {name: entry.read().float() for name, entry in entries.items()}
        tensors[_POSITIONS] = tensors[_POSITIONS] + types[0]
        save(folder, replace(config, architectures=(DistilBertModel.__name__,)), tensors)
        copy_tokenizer(source, folder)
        _rename_tokenizer(folder / TOKENIZER_CONFIG_FILE)
        DistilBertModel.from_pretrained(folder)
    notes = []
    if any(name.startswith("classifier.") for name in dropped):
        notes.append(
            "the classifier was left out: BERT pools through tanh and DistilBERT through relu; train a new head"
        )
    return Conversion(target, dropped, tuple(notes))


def write_sequence_classifier(
    encoder: Path, target: Path, *, head: Mapping[str, Tensor], labels: Sequence[str], problem_type: str | None = None
) -> None:
    """Write the encoder of one checkpoint and a trained head as a sequence-classification checkpoint.

    Args:
        encoder: A DistilBERT folder; a head in it is left out, its tokenizer files are taken along.
        target: A new or empty folder.
        head: ``pre_classifier`` and ``classifier``, weight and bias each.
        labels: C labels in order of their ids.
        problem_type: As in ``DistilBertConfig``.

    Raises:
        CheckpointError: The encoder cannot be read, or the head does not fit it.
        ConfigError: ``target`` is in use, or ``labels`` is empty.
    """
    if not labels:
        raise ConfigError("labels of a sequence classifier", expected="at least one", found="none")
    source = read_checkpoint(encoder)
    config = replace(
        source.config.with_labels(tuple(labels)),
        problem_type=problem_type,
        architectures=(DistilBertForSequenceClassification.__name__,),
    )
    trunk = DistilBertModel.from_pretrained(encoder)
    tensors = {ENCODER_PREFIX + name: tensor for name, tensor in trunk.state_dict().items()}
    with new_folder(target) as folder:
        save(folder, config, {**tensors, **head})
        copy_tokenizer(encoder, folder)
        DistilBertForSequenceClassification.from_pretrained(folder)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer files that ``source`` has.

    Raises:
        CheckpointError: One cannot be copied.
    """
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            try:
                shutil.copyfile(source / name, target / name)
            except OSError as exc:
                raise CheckpointError(f"{source / name}: cannot be copied to {target}", found=str(exc)) from exc


def _rename_tokenizer(path: Path) -> None:
    # BERT's class gives token types, which DistilBERT's forward refuses in the reference before version 5.
    if not path.is_file():
        return
    values = read_json(path)
    if values.get("tokenizer_class") in _BERT_TOKENIZERS:
        values["tokenizer_class"] = "DistilBertTokenizer"
    values["model_input_names"] = ["input_ids", "attention_mask"]
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _translate_config(source: Path, labels: Sequence[str]) -> DistilBertConfig:
    path = source / CONFIG_FILE
    values = read_json(path)
    if values.get("model_type") != "bert":
        raise CheckpointError(f"{path}: model_type", expected="bert", found=str(values.get("model_type")))
    for key, wanted in _REQUIRED.items():
        if values.get(key, wanted) != wanted:
            raise CheckpointError(
                f"{path}: {key}", expected=str(wanted), found=str(values[key]), remedy="DistilBERT cannot express it"
            )
    translated: dict[str, Any] = {ours: values[theirs] for theirs, ours in _CONFIG_KEYS.items() if theirs in values}
    for theirs, default in _BERT_SIZES.items():
        translated.setdefault(_CONFIG_KEYS[theirs], default)
    try:
        config = DistilBertConfig.from_dict(translated)
        return config.with_labels(tuple(labels)) if labels else config
    except ConfigError as exc:
        raise CheckpointError(f"{path}: {exc.what}", expected=exc.expected, found=exc.found) from exc


def _translate_names(source: Path, config: DistilBertConfig) -> tuple[dict[str, Entry], tuple[str, ...]]:
    with torch.device("meta"):
        wanted = {*DistilBertModel(config).state_dict(), _TOKEN_TYPES}
    entries: dict[str, Entry] = {}
    dropped: list[str] = []
    unknown: list[str] = []
    for name, entry in read_entries(source).items():
        target = _translate_name(name.removeprefix("bert."))
        if name.removeprefix("bert.").startswith(_DROPPED):
            dropped.append(name)
        elif target not in wanted:
            unknown.append(name)
        else:
            entries[target] = entry
    missing = sorted(wanted - set(entries))
    if missing or unknown:
        raise CheckpointError(
            f"checkpoint {source}: its tensors are not those of BERT",
            found=f"{len(missing)} missing {missing[:5]}, {len(unknown)} unknown {unknown[:5]}",
            remedy="fetch the checkpoint again, or correct its config.json",
        )
    return entries, tuple(sorted(dropped))


def _translate_name(name: str) -> str:
    block = _BLOCK.fullmatch(name)
    if block is None or block[2] not in _BLOCK_PARTS:
        return name
    return f"transformer.layer.{block[1]}.{_BLOCK_PARTS[block[2]]}.{block[3]}"
