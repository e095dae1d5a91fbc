"""Text classification: logits to labels and scores, with the semantics of the Hugging Face pipeline.

Source of the rules: the documentation of ``transformers.TextClassificationPipeline`` (function_to_apply, top_k).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from typing_extensions import override

from distilbatch import schema
from distilbatch.errors import ConfigError
from distilbatch.records import HeadOutput
from distilbatch.tasks.base import Task, scatter

FUNCTIONS = ("none", "sigmoid", "softmax")


class TextClassificationTask(Task):
    """``struct<label, score[, scores]>``: the best class, and all wanted classes by falling score.

    Args:
        labels: C class names in the order of the logits.
        problem_type: The checkpoint's: regression, single_label_classification, multi_label_classification
            or None.
        top_k: How many classes ``scores`` lists, at most C; None leaves ``scores`` out.
        function_to_apply: none, sigmoid or softmax; None follows the checkpoint: none for regression, sigmoid
            for multi-label or a single class, else softmax.
        threshold: ``scores`` lists only classes that reach it (multi-label); needs no ``top_k``.

    Raises:
        ConfigError: An unknown function, or ``top_k`` below 1.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        problem_type: str | None = None,
        top_k: int | None = None,
        function_to_apply: str | None = None,
        threshold: float | None = None,
    ) -> None:
        if function_to_apply is not None and function_to_apply not in FUNCTIONS:
            raise ConfigError(
                "function_to_apply is unknown", expected=" or ".join(FUNCTIONS), found=repr(function_to_apply)
            )
        if top_k is not None and top_k < 1:
            raise ConfigError("top_k is too small", expected="at least 1", found=str(top_k))
        self.labels = list(labels)
        self._function = function_to_apply or _default_function(len(labels), problem_type)
        self._threshold = threshold
        wants_scores = top_k is not None or threshold is not None
        self._num_scores = min(top_k or len(labels), len(labels)) if wants_scores else 0

    @property
    @override
    def type(self) -> pa.DataType:
        return schema.classification_type(with_scores=self._num_scores > 0)

    @override
    def decode(self, output: HeadOutput, *, num_rows: int) -> pa.Array:
        if not len(output.rows):
            return pa.nulls(num_rows, self.type)
        scores = apply_function(output.logits, self._function)
        names = pa.array(self.labels, pa.string())
        best = scores.argmax(axis=1)
        columns = [names.take(pa.array(best)), pa.array(scores[np.arange(len(best)), best], pa.float32())]
        if self._num_scores:
            columns.append(self._score_lists(scores, names))
        values = pa.StructArray.from_arrays(columns, fields=list(self.type))
        return scatter(values, output.rows, num_rows=num_rows)

    def _score_lists(self, scores: NDArray[np.float32], names: pa.Array) -> pa.Array:
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self._num_scores]  # (N, k)
        ranked = np.take_along_axis(scores, order, axis=1)
        keep = np.ones_like(ranked, dtype=bool) if self._threshold is None else ranked >= self._threshold
        offsets = np.concatenate([[0], np.cumsum(keep.sum(axis=1))]).astype(np.int32)
        items = pa.StructArray.from_arrays(
            [names.take(pa.array(order[keep])), pa.array(ranked[keep], pa.float32())],
            fields=list(schema.label_scores_type().value_type),
        )
        return pa.ListArray.from_arrays(pa.array(offsets), items, type=schema.label_scores_type())


def apply_function(logits: NDArray[np.float32], function: str) -> NDArray[np.float32]:
    """Map logits ``(N, C)`` to scores ``(N, C)`` by none, sigmoid or softmax, in float32."""
    if function == "none":
        return logits
    if function == "sigmoid":
        # Not by tanh, which rounds unlikely classes to 0 and so loses their order.
        with np.errstate(over="ignore"):  # exp gives infinity, whose score is 0
            scores = 1.0 / (1.0 + np.exp(-logits))
        return scores.astype(np.float32, copy=False)
    shifted: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
    shifted /= shifted.sum(axis=1, keepdims=True)
    return shifted


def _default_function(num_labels: int, problem_type: str | None) -> str:
    if problem_type == "regression":
        return "none"
    if problem_type == "multi_label_classification" or num_labels == 1:
        return "sigmoid"
    return "softmax"
