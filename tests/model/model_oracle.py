"""Random small models and inputs, and the same model in transformers: what the parity tests are drawn from."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor

from distilbatch.model import modeling
from distilbatch.model.configuration import ACTIVATIONS, DistilBertConfig

HEADS = (
    "DistilBertModel",
    "DistilBertForSequenceClassification",
    "DistilBertForMultipleChoice",
    "DistilBertForTokenClassification",
    "DistilBertForMaskedLM",
    "DistilBertForQuestionAnswering",
)
MASKS = ("none", "ones", "right", "left", "holes", "dead row")
ATTENTIONS = ("eager", "sdpa", "packed")
POOLING = ("DistilBertForSequenceClassification", "DistilBertForMultipleChoice")
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 0.15, torch.float16: 0.03}


@dataclass
class Case:
    """One draw: both models with the same weights, the inputs, and the labels for the loss."""

    head: str
    attention: str
    mask_kind: str
    ours: modeling.PreTrainedModel
    reference: Any
    inputs: dict[str, Tensor]
    labels: dict[str, Tensor] = field(default_factory=dict)

    @property
    def mask(self) -> Tensor | None:
        """``(B, S)`` bool of documents, choices merged; None without a mask."""
        mask = self.inputs.get("attention_mask")
        return None if mask is None else mask.reshape(-1, mask.shape[-1]).bool()


def draw(seed: int, head: str, *, dtype: torch.dtype = torch.float32, attention: str = "", mask: str = "") -> Case:
    """Draw a case; the same seed gives the same case."""
    rng = random.Random(f"{seed} {head}")
    torch.manual_seed(seed)
    values = draw_config(rng, head)
    attention = attention or rng.choice(ATTENTIONS)
    ours, reference = build_pair(head, values, attention=attention, dtype=dtype)
    mask_kind = mask or rng.choice(MASKS)
    inputs, labels = draw_inputs(rng, head, ours.config, mask_kind, dtype)
    return Case(head, attention, mask_kind, ours, reference, inputs, labels)


def draw_config(rng: random.Random, head: str) -> dict[str, Any]:
    """Draw the keys of a ``config.json``; no dropout, so that training mode can be compared too."""
    n_heads = rng.choice([1, 2, 3, 4])
    num_labels = 2 if head == "DistilBertForQuestionAnswering" else rng.choice([1, 2, 3, 7])
    problem_types = [None, "regression", "multi_label_classification"]
    if num_labels > 1:
        problem_types.append("single_label_classification")
    return {
        "vocab_size": rng.choice([7, 40, 101]),
        "max_position_embeddings": rng.choice([12, 33]),
        "sinusoidal_pos_embds": rng.random() < 0.2,
        "n_layers": rng.choice([1, 2, 3]),
        "n_heads": n_heads,
        "dim": n_heads * rng.choice([2, 4, 6]),
        "hidden_dim": rng.choice([5, 16, 31]),
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "qa_dropout": 0.0,
        "seq_classif_dropout": 0.0,
        "activation": rng.choice(["gelu", rng.choice(ACTIVATIONS)]),
        "initializer_range": rng.choice([0.1, 0.3]),
        "pad_token_id": rng.choice([0, 0, 3, None]),
        "tie_word_embeddings": rng.random() < 0.7,
        "id2label": {str(i): f"name {i}" for i in range(num_labels)},
        "problem_type": rng.choice(problem_types),
    }


def build_pair(
    head: str, values: dict[str, Any], *, attention: str = "sdpa", dtype: torch.dtype = torch.float32
) -> tuple[modeling.PreTrainedModel, Any]:
    """Build our model and the reference's with the same random weights, biases and norms too, in evaluation mode."""
    config = transformers.DistilBertConfig(**values)
    theirs = "eager" if attention == "eager" else "sdpa"
    reference = getattr(transformers, head)._from_config(config, attn_implementation=theirs)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if parameter.dim() == 1:  # biases are zero and norms one when fresh, which would hide a mix-up
                parameter.add_(torch.randn_like(parameter) * 0.2)
            parameter.requires_grad = not (values["sinusoidal_pos_embds"] and "position_embeddings" in name)
    ours = getattr(modeling, head)(DistilBertConfig.from_dict(values), attn_implementation=attention)
    ours.load_state_dict(reference.state_dict())
    return ours.to(dtype).eval(), reference.to(dtype).eval()


def draw_inputs(
    rng: random.Random, head: str, config: DistilBertConfig, mask_kind: str, dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw the arguments of ``forward``, and the labels apart."""
    batch, length = rng.randint(1, 4), rng.randint(1, config.max_position_embeddings)
    shape = (batch, rng.randint(1, 3), length) if head == "DistilBertForMultipleChoice" else (batch, length)
    inputs: dict[str, Tensor] = {}
    if rng.random() < 0.8:
        inputs["input_ids"] = torch.randint(config.vocab_size, shape)
    else:
        inputs["inputs_embeds"] = torch.randn(*shape, config.dim, dtype=dtype)
    mask = draw_mask(rng, shape, mask_kind)
    if mask is not None:
        inputs["attention_mask"] = mask.to(rng.choice([torch.int64, torch.bool, torch.float32]))
    positions = rng.choice(["none", "one row", "all rows"])
    if positions == "one row":
        inputs["position_ids"] = torch.randint(config.max_position_embeddings, (1, length))
    if positions == "all rows":
        documents = math.prod(shape[:-1])  # the reference merges choices into documents, but not their positions
        inputs["position_ids"] = torch.randint(config.max_position_embeddings, (documents, length))
    return inputs, draw_labels(rng, head, config, shape, dtype)


def draw_mask(rng: random.Random, shape: tuple[int, ...], kind: str) -> Tensor | None:
    """Draw a 0/1 mask of a kind in ``MASKS``."""
    if kind == "none":
        return None
    mask = torch.ones(shape, dtype=torch.int64)
    for row in mask.view(-1, shape[-1]):
        if kind in ("right", "left"):
            row[rng.randint(1, shape[-1]) :] = 0
        if kind == "left":
            row.copy_(row.flip(0))
        if kind == "holes":
            row.copy_(torch.rand(shape[-1]) < 0.6)
            row[rng.randrange(shape[-1])] = 1
    if kind == "dead row":
        mask.view(-1, shape[-1])[0] = 0
    return mask


def draw_labels(
    rng: random.Random, head: str, config: DistilBertConfig, shape: tuple[int, ...], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Draw labels that the head's loss takes."""
    batch, length = shape[0], shape[-1]
    if head == "DistilBertModel":
        return {}
    if head == "DistilBertForQuestionAnswering":
        places = [torch.randint(-1, length + 3, rng.choice([(batch,), (batch, 1)])) for _ in range(2)]
        for place in places:
            place.view(-1)[0] = rng.randrange(length)  # one at least inside, or the loss is 0 / 0
        return dict(zip(("start_positions", "end_positions"), places, strict=True))
    if head == "DistilBertForMultipleChoice":
        return {"labels": torch.randint(shape[1], (batch,))}
    if head == "DistilBertForSequenceClassification":
        return {"labels": _sequence_labels(rng, config, batch, dtype)}
    classes = config.vocab_size if head == "DistilBertForMaskedLM" else config.num_labels
    labels = torch.randint(classes, shape)
    labels[torch.rand(shape) < 0.5] = -100
    labels[0, rng.randrange(length)] = 0
    return {"labels": labels}


def _sequence_labels(rng: random.Random, config: DistilBertConfig, batch: int, dtype: torch.dtype) -> Tensor:
    num_labels, problem = config.num_labels, config.problem_type
    if problem is None:
        options = ["single_label_classification", "multi_label_classification"]
        problem = "regression" if num_labels == 1 else rng.choice(options)
    if problem == "regression":
        return torch.randn((batch,) if num_labels == 1 else (batch, num_labels), dtype=dtype)
    if problem == "single_label_classification":
        return torch.randint(num_labels, (batch,))
    return torch.rand(batch, num_labels).round().to(dtype)
