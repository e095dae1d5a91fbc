"""The names of the models that there are, as ``architectures`` of a config has them; light, without torch."""

from __future__ import annotations

from collections.abc import Iterable

ARCHITECTURE_NAMES = (
    "DistilBertModel",
    "DistilBertForSequenceClassification",
    "DistilBertForTokenClassification",
    "DistilBertForQuestionAnswering",
    "DistilBertForMaskedLM",
    "DistilBertForMultipleChoice",
)


def known_models(architectures: Iterable[object]) -> tuple[str, ...]:
    """Return those of a config's ``architectures`` that there are, also by their names in TensorFlow and Flax.

    Other names say nothing: whoever trains a class of their own saves its name, with the same tensors.
    """
    bare = [str(name).removeprefix("TF").removeprefix("Flax") for name in architectures]
    return tuple(name for name in bare if name in ARCHITECTURE_NAMES)
