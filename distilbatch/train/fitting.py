"""Fits the two-layer DistilBERT classifier on fixed states ``(N, H)``; knows nothing of texts, files or encoders."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from distilbatch.errors import ConfigError, DataError

__all__ = ["FitOptions", "FittedHead", "Scores", "apply_head", "fit_head", "score"]

_WARM_UP = 0.1  # of the steps


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How the head is fitted.

    Args:
        epochs: Passes over the training states; the epoch with the best dev accuracy is kept.
        batch_rows: Rows of a minibatch.
        max_lr: Highest learning rate, reached after a tenth of the steps and then lowered to zero.
        weight_decay: AdamW's.
        input_dropout: Probability on the states.
        dropout: Probability between the two layers, where the model has its own.
        label_smoothing: Share of the target spread over all classes.
        class_weight_power: Classes weigh ``rows ** -power`` in the loss: 0 is no weights, 1 makes all classes equal.
        seed: Of the fresh weights, the order of rows and dropout.

    Raises:
        ConfigError: There is no epoch, or no row in a minibatch.
    """

    epochs: int = 20
    batch_rows: int = 256
    max_lr: float = 2e-3
    weight_decay: float = 0.01
    input_dropout: float = 0.2
    dropout: float = 0.5
    label_smoothing: float = 0.0
    class_weight_power: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(name, expected="at least 1", found=str(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class Scores:
    """How well predictions match labels.

    Args:
        accuracy: Share of rows that are right.
        macro_f1: Mean over classes of F1.
        majority_share: Accuracy of always saying the most frequent class.
        rows: Rows scored.
    """

    accuracy: float
    macro_f1: float
    majority_share: float
    rows: int


@dataclass(frozen=True, slots=True)
class FittedHead:
    """A head under the names of a DistilBERT checkpoint, and how it did.

    Args:
        tensors: ``pre_classifier`` ``(H, H)`` and ``classifier`` ``(C, H)``, weight and bias each, float16.
        epoch: The epoch that was kept, from 1.
        dev: What these tensors, as rounded, score on the dev rows, by which the epoch was chosen.
    """

    tensors: Mapping[str, Tensor]
    epoch: int
    dev: Scores


def fit_head(
    train: tuple[Tensor, Tensor], dev: tuple[Tensor, Tensor], *, num_labels: int, options: FitOptions
) -> FittedHead:
    """Fit a head and keep its best epoch.

    States are standardised for the fit, and the mean and deviation then folded into the first layer, so the head
    takes the encoder's states as they are.

    Args:
        train: States ``(N, H)`` float32 and class ids ``(N,)`` int64.
        dev: The same for the rows that choose the epoch.
        num_labels: C.
        options: How.

    Raises:
        DataError: The head does not fit into float16.
    """
    # Of equally good epochs max keeps the first.
    return max(_epochs(train, dev, num_labels=num_labels, options=options), key=lambda head: head.dev.accuracy)


def apply_head(tensors: Mapping[str, Tensor], states: Tensor) -> Tensor:
    """Map states ``(N, H)`` to logits ``(N, C)``, as the model does outside training."""
    hidden = F.relu(F.linear(states, *_layer(tensors, "pre_classifier")))
    return F.linear(hidden, *_layer(tensors, "classifier"))


def score(logits: Tensor, labels: Tensor) -> Scores:
    """Compare logits ``(N, C)`` with class ids ``(N,)``."""
    num_labels = logits.shape[1]
    predicted = logits.argmax(1)
    right = torch.bincount(labels[predicted == labels], minlength=num_labels)
    rows = torch.bincount(labels, minlength=num_labels)
    f1 = 2 * right / (rows + torch.bincount(predicted, minlength=num_labels)).clamp_min(1)
    return Scores(
        accuracy=right.sum().item() / len(labels),
        macro_f1=f1.mean().item(),
        majority_share=rows.max().item() / len(labels),
        rows=len(labels),
    )


def _epochs(
    train: tuple[Tensor, Tensor], dev: tuple[Tensor, Tensor], *, num_labels: int, options: FitOptions
) -> Iterator[FittedHead]:
    states, labels = train
    mean, deviation = states.mean(0), states.std(0, unbiased=False)
    # A constant state would fold to huge weights. Where all are constant there is nothing to learn but how frequent
    # each class is, and any scale will do.
    deviation = deviation.clamp_min(0.1 * deviation.mean().item() or 1.0)
    standard = (states - mean) / deviation
    random = torch.Generator().manual_seed(options.seed)
    net = _fresh(states.shape[1], num_labels, random)
    steps = options.epochs * math.ceil(len(labels) / options.batch_rows)
    optimizer = torch.optim.AdamW(net.values(), lr=options.max_lr, weight_decay=options.weight_decay)
    # Of a warm-up of a single step torch makes a phase without length, and divides by it.
    warm_up = _WARM_UP if _WARM_UP * steps > 1 else 0.0
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.max_lr, total_steps=steps, pct_start=warm_up)
    weights = torch.bincount(labels, minlength=num_labels).clamp_min(1).float() ** -options.class_weight_power
    for epoch in range(1, options.epochs + 1):
        for rows in torch.split(torch.randperm(len(labels), generator=random), options.batch_rows):
            loss = F.cross_entropy(
                _training_logits(net, standard[rows], options=options, random=random),
                labels[rows],
                weight=weights / weights.mean(),
                label_smoothing=options.label_smoothing,
            )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        tensors = _fold(net, mean, deviation)
        yield FittedHead(tensors, epoch, score(apply_head(tensors, dev[0]), dev[1]))


def _fresh(dim: int, num_labels: int, random: torch.Generator) -> dict[str, nn.Parameter]:
    bound = dim**-0.5

    def uniform(*shape: int) -> nn.Parameter:
        return nn.Parameter((torch.rand(shape, generator=random) * 2 - 1) * bound)

    return {
        "pre_classifier.weight": uniform(dim, dim),
        "pre_classifier.bias": uniform(dim),
        "classifier.weight": uniform(num_labels, dim),
        "classifier.bias": uniform(num_labels),
    }


def _training_logits(
    net: Mapping[str, Tensor], states: Tensor, *, options: FitOptions, random: torch.Generator
) -> Tensor:
    hidden = _drop(states, options.input_dropout, random)
    hidden = F.relu(F.linear(hidden, *_layer(net, "pre_classifier")))
    hidden = _drop(hidden, options.dropout, random)
    return F.linear(hidden, *_layer(net, "classifier"))


def _layer(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return tensors[f"{name}.weight"].float(), tensors[f"{name}.bias"].float()


def _drop(hidden: Tensor, probability: float, random: torch.Generator) -> Tensor:
    # torch's own dropout draws from the global generator, which would make the result depend on who ran before.
    kept = torch.rand(hidden.shape, generator=random) >= probability
    return hidden * kept / (1 - probability)


def _fold(net: Mapping[str, Tensor], mean: Tensor, deviation: Tensor) -> dict[str, Tensor]:
    tensors = {name: tensor.detach().clone() for name, tensor in net.items()}
    weight = tensors["pre_classifier.weight"] / deviation
    tensors["pre_classifier.weight"] = weight
    tensors["pre_classifier.bias"] -= weight @ mean
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    if broken := [name for name, tensor in halves.items() if not bool(tensor.isfinite().all())]:
        raise DataError(
            "the head does not fit into float16",
            expected="states of the training texts that differ, in numbers of a usual size",
            found=f"NaN or infinity in {', '.join(broken)}",
            remedy="check that the training texts are not all alike, and lower max_lr",
        )
    return halves
