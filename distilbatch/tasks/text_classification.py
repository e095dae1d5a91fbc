"""Text classification: logits to labels and scores, with the semantics of the Hugging Face pipeline.

Source of the rules: the documentation of ``transformers.TextClassificationPipeline`` (function_to_apply, top_k,
text pairs). Long documents may be read in text windows, whose scores are reduced to one row; of a pair the first text
is, beside the beginning of the second.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from typing_extensions import override

from distilbatch import schema
from distilbatch.errors import ConfigError
from distilbatch.records import Decoded, HeadOutput, Sequences
from distilbatch.tasks.base import NOT_FINITE, Asked, Inputs, Task, failed_rows, scatter, single_texts, unread_sequences
from distilbatch.tasks.classes import apply_function, best_classes, ranked_classes
from distilbatch.tasks.text_windows import REDUCTIONS, check_choice, reduce_windows, window_evidence, window_weights

FUNCTIONS = ("none", "sigmoid", "softmax")
NO_SECOND = "the second text of the pair is missing or empty"


@dataclass(frozen=True, slots=True)
class TextClassificationOptions:
    """What a user may choose.

    Args:
        top_k: How many classes ``scores`` lists, at most C; None leaves ``scores`` out.
        function_to_apply: none, sigmoid or softmax; None follows the checkpoint: none for regression, sigmoid
            for multi-label or a single class, else softmax.
        threshold: ``scores`` lists only classes that reach it (multi-label); needs no ``top_k``.
        reduction: How the scores of a document's windows become one: mean, max (class by class),
            length_weighted (mean by tokens, those of a second text left out) or first.
        pair: Whether a second text is read with each text.
        evidence: Whether the column lists every window with its label, score and place.
    """

    top_k: int | None = None
    function_to_apply: str | None = None
    threshold: float | None = None
    reduction: str = "mean"
    pair: bool = False
    evidence: bool = False


class TextClassificationTask(Task):
    """``struct<label, score[, scores][, windows]>``: the best class, and all wanted classes by falling score.

    Args:
        labels: C class names in the order of the logits.
        options: The user's choices.
        problem_type: The checkpoint's: regression, single_label_classification, multi_label_classification
            or None.

    Raises:
        ConfigError: An unknown function or reduction, or ``top_k`` below 1.
    """

    def __init__(
        self, labels: Sequence[str], options: TextClassificationOptions, *, problem_type: str | None = None
    ) -> None:
        check_choice("function_to_apply", options.function_to_apply, FUNCTIONS)
        check_choice("reduction", options.reduction, REDUCTIONS)
        if options.top_k is not None and options.top_k < 1:
            raise ConfigError("top_k is too small", expected="at least 1", found=str(options.top_k))
        self.labels = list(labels)
        self._options = options
        self._names = pa.array(self.labels, pa.string())
        self._function = options.function_to_apply or default_function(len(labels), problem_type)
        wants_scores = options.top_k is not None or options.threshold is not None
        self._num_scores = min(options.top_k or len(labels), len(labels)) if wants_scores else 0

    @property
    @override
    def type(self) -> pa.DataType:
        fields = list(schema.classification_type(with_scores=self._num_scores > 0))
        if self._options.evidence:
            fields.append(pa.field(schema.WINDOWS, schema.window_evidence_type()))
        return pa.struct(fields)

    @property
    @override
    def sharing_key(self) -> Hashable:
        return ("text", "text_pair") if self._options.pair else ("text",)

    @override
    def sequences(self, inputs: Inputs) -> Sequences:
        return text_pairs(inputs) if self._options.pair else single_texts(inputs)

    @override
    def decode(self, output: HeadOutput, asked: Asked) -> Decoded:
        unread = asked.sequences.rows[unread_sequences(asked)].tolist()
        errors = failed_rows(output.positions, asked) | dict.fromkeys(unread, NO_SECOND)
        if not len(output.positions):
            return Decoded(pa.nulls(asked.num_rows, self.type), errors)
        window_scores = apply_function(output.values, self._function)  # (P, C), P windows
        weights = window_weights(output.positions, asked)
        owners = asked.document_rows[output.positions]
        rows, first = np.unique(owners, return_index=True)
        scores = reduce_windows(window_scores, first, weights, self._options.reduction)
        finite = np.isfinite(scores).all(axis=1)
        columns = best_classes(scores, self._names)
        if self._num_scores:
            threshold = self._options.threshold
            columns.append(ranked_classes(scores, self._names, num_scores=self._num_scores, threshold=threshold))
        if self._options.evidence:
            columns.append(window_evidence(window_scores, self._names, output.positions, first=first, asked=asked))
        good = finite & ~np.isin(rows, list(errors))  # a row is failed when any of its windows is
        values = pa.StructArray.from_arrays(columns, fields=list(self.type)).filter(pa.array(good))
        errors = dict.fromkeys(rows[~finite].tolist(), NOT_FINITE) | errors
        return Decoded(scatter(values, rows[good], num_rows=asked.num_rows), errors)


def text_pairs(inputs: Inputs) -> Sequences:
    """One pair for each row that has a text; a row without its second text is an error."""
    texts, pairs = inputs["text"], inputs["text_pair"]
    rows = [row for row, text in enumerate(texts) if text is not None and pairs[row] is not None]
    missing = [row for row, text in enumerate(texts) if text is not None and pairs[row] is None]
    return Sequences(
        first=[str(texts[row]) for row in rows],
        second=[str(pairs[row]) for row in rows],
        rows=np.array(rows, dtype=np.int64),
        errors=dict.fromkeys(missing, NO_SECOND),
    )


def default_function(num_labels: int, problem_type: str | None) -> str:
    """The pipeline's rule for a checkpoint that is used without an explicit function."""
    if problem_type == "regression":
        return "none"
    if problem_type == "multi_label_classification" or num_labels == 1:
        return "sigmoid"
    return "softmax"
