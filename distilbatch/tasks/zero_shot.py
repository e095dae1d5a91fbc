"""Zero-shot classification: labels a model was never trained on, judged as hypotheses by an inference head.

Source of the rules: the documentation of ``transformers.ZeroShotClassificationPipeline``. A long text may be read in
text windows, the same for all labels: each window is scored like a text of its own, and the scores are reduced.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from typing_extensions import override

from distilbatch import schema
from distilbatch.errors import ConfigError
from distilbatch.records import Decoded, HeadOutput, Sequences
from distilbatch.tasks.base import NOT_FINITE, Asked, Inputs, Task, failed_rows, scatter, unread_sequences
from distilbatch.tasks.classes import apply_function, best_classes, ranked_classes
from distilbatch.tasks.text_windows import (
    REDUCTIONS,
    check_choice,
    reduce_windows,
    window_evidence,
    window_order,
    window_weights,
)

ENTAILMENT = "entail"


@dataclass(frozen=True, slots=True)
class ZeroShotClassificationOptions:
    """What a user may choose.

    Args:
        candidate_labels: The labels.
        hypothesis_template: Sentence with ``{}`` or ``{0}`` in the place of a label; as in ``str.format``, ``{{`` is a
            brace.
        multi_label: Whether labels are judged one by one, entailment against contradiction, instead of against
            each other.
        reduction: How the scores of a text's windows become one: mean, max (label by label), length_weighted (mean
            by tokens, those of the hypothesis left out) or first.
        evidence: Whether the column lists every window with its label, score and place.
    """

    candidate_labels: Sequence[str]
    hypothesis_template: str = "This example is {}."
    multi_label: bool = False
    reduction: str = "mean"
    evidence: bool = False


class ZeroShotClassificationTask(Task):
    """``struct<label, score, scores[, windows]>`` over the candidate labels, by falling score.

    Args:
        labels: C class names of the inference head; one begins with "entail".
        options: The user's choices.
        label_ids: Ids of class names, which need not be those of ``labels``; the first that begins with "entail" is
            taken before that of ``labels``, as in the pipeline.

    Attributes:
        hypotheses: What is read beside each text, one for each candidate label.

    Raises:
        ConfigError: The head has no entailment class, or the reduction is unknown.
    """

    def __init__(
        self,
        labels: Sequence[str],
        options: ZeroShotClassificationOptions,
        *,
        label_ids: Mapping[str, int] | None = None,
    ) -> None:
        check_choice("reduction", options.reduction, REDUCTIONS)
        self._options = options
        self._names = pa.array(list(options.candidate_labels), pa.string())
        self.hypotheses = [options.hypothesis_template.format(label) for label in options.candidate_labels]
        ids = [*(label_ids or {}).items(), *((label, index) for index, label in enumerate(labels))]
        found = [index for label, index in ids if label.lower().startswith(ENTAILMENT) and index in range(len(labels))]
        if not found:
            raise ConfigError(
                "zero-shot-classification needs a natural language inference checkpoint",
                expected=f"a class whose name begins with {ENTAILMENT!r}",
                found=", ".join(labels),
            )
        self._entailment = found[0]
        # With a single label there is nothing to compare it with.
        self._one_by_one = options.multi_label or len(options.candidate_labels) == 1

    @property
    @override
    def type(self) -> pa.DataType:
        fields = list(schema.classification_type(with_scores=True))
        if self._options.evidence:
            fields.append(pa.field(schema.WINDOWS, schema.window_evidence_type()))
        return pa.struct(fields)

    @property
    @override
    def sharing_key(self) -> Hashable:
        return ("zero-shot", tuple(self._options.candidate_labels), self._options.hypothesis_template)

    @override
    def sequences(self, inputs: Inputs) -> Sequences:
        hypotheses = self.hypotheses
        texts = [(row, str(text)) for row, text in enumerate(inputs["text"]) if text is not None]
        return Sequences(
            first=[text for _, text in texts for _ in hypotheses],
            second=[hypothesis for _ in texts for hypothesis in hypotheses],
            rows=np.repeat(np.array([row for row, _ in texts], dtype=np.int64), len(hypotheses)),
        )

    @override
    def decode(self, output: HeadOutput, asked: Asked) -> Decoded:
        errors = failed_rows(output.positions, asked)
        errors |= dict.fromkeys(asked.sequences.rows[unread_sequences(asked)].tolist(), "a hypothesis has no tokens")
        whole = np.flatnonzero(~np.isin(asked.document_rows[output.positions], list(errors)))
        if not len(whole):
            return Decoded(pa.nulls(asked.num_rows, self.type), errors)
        whole = whole[window_order(output.positions[whole], asked)]
        labels = len(self._names)
        windows = output.positions[whole[::labels]]  # beside the first label
        window_scores = self._scores(output.values[whole].reshape(len(windows), labels, -1))
        rows, first = np.unique(asked.document_rows[windows], return_index=True)
        scores = reduce_windows(window_scores, first, window_weights(windows, asked), self._options.reduction)
        finite = np.isfinite(scores).all(axis=1)
        columns = [*best_classes(scores, self._names), ranked_classes(scores, self._names, num_scores=labels)]
        if self._options.evidence:
            columns.append(window_evidence(window_scores, self._names, windows, first=first, asked=asked))
        values = pa.StructArray.from_arrays(columns, fields=list(self.type)).filter(pa.array(finite))
        errors |= dict.fromkeys(rows[~finite].tolist(), NOT_FINITE)
        return Decoded(scatter(values, rows[finite], num_rows=asked.num_rows), errors)

    def _scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map ``(R, labels, C)`` logits to ``(R, labels)`` scores."""
        if not self._one_by_one:
            return apply_function(logits[:, :, self._entailment], "softmax")
        # The pipeline takes the last class for contradiction when entailment comes first, else the first.
        contradiction = -1 if self._entailment == 0 else 0
        pair = logits[:, :, [contradiction, self._entailment]]
        return apply_function(pair.reshape(-1, 2), "softmax")[:, 1].reshape(logits.shape[:2])
