"""Scores of classes: logits to scores, and scores to the label and score columns that classification tasks share."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilbatch import schema


def apply_function(logits: NDArray[np.float32], function: str) -> NDArray[np.float32]:
    """Map logits ``(N, C)`` to scores ``(N, C)`` by none, sigmoid or softmax, in float32."""
    if function == "none":
        return logits
    if function == "sigmoid":
        # Not by tanh, which rounds unlikely classes to 0 and so loses their order.
        with np.errstate(over="ignore"):  # exp gives infinity, whose score is 0
            scores: NDArray[np.float32] = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32, copy=False)
        return scores
    with np.errstate(invalid="ignore"):  # an infinite logit gives NaN, which callers look for
        shifted: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
    shifted /= shifted.sum(axis=1, keepdims=True)
    return shifted


def best_classes(scores: NDArray[np.float32], names: pa.Array) -> list[pa.Array]:
    """The label and the score of the best class of each of N score rows ``(N, C)``."""
    best = scores.argmax(axis=1)
    return [names.take(pa.array(best)), pa.array(scores[np.arange(len(best)), best], pa.float32())]


def ranked_classes(
    scores: NDArray[np.float32], names: pa.Array, *, num_scores: int, threshold: float | None = None
) -> pa.Array:
    """``list<struct<label, score>>`` of each of N score rows ``(N, C)``: classes by falling score.

    Args:
        scores: The scores.
        names: C class names.
        num_scores: How many classes to list.
        threshold: Least score of a listed class; None lists all.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :num_scores]  # (N, k)
    ranked = np.take_along_axis(scores, order, axis=1)
    keep = np.ones_like(ranked, dtype=bool) if threshold is None else ranked >= threshold
    offsets = np.concatenate([[0], np.cumsum(keep.sum(axis=1))]).astype(np.int32)
    items = pa.StructArray.from_arrays(
        [names.take(pa.array(order[keep])), pa.array(ranked[keep], pa.float32())],
        fields=list(schema.label_scores_type().value_type),
    )
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=schema.label_scores_type())
