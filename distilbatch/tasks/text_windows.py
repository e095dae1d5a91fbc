"""From the scores of text windows to those of rows, and what each window says, for the tasks that classify.

Each window is scored as if it were the whole text, and the scores are reduced, never the logits: those of different
windows cannot be compared, for a classifier is trained to tell the classes of one input apart.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilbatch import schema
from distilbatch.errors import ConfigError
from distilbatch.tasks.base import Asked
from distilbatch.tasks.classes import best_classes

REDUCTIONS = ("mean", "max", "length_weighted", "first")
WEIGHTED = "length_weighted"

_FIRST_PART, _SECOND_PART = 1, 2


def check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices; None always is one.

    Raises:
        ConfigError: It is not.
    """
    if value is not None and value not in choices:
        raise ConfigError(f"{name} is unknown", expected=" or ".join(choices), found=repr(value))


def needs_details(*, reduction: str, evidence: bool = False, pairs: bool) -> bool:
    """Whether reducing or listing windows needs to know where tokens come from."""
    return evidence or (pairs and reduction == WEIGHTED)


def reduce_windows(
    scores: NDArray[np.float32], first: NDArray[np.int64], weights: NDArray[np.int64], reduction: str
) -> NDArray[np.float32]:
    """Reduce scores of windows to scores of rows, class by class.

    Args:
        scores: ``(P, C)``, windows of a row next to each other.
        first: ``(R,)``, the first window of each row.
        weights: ``(P,)``, as :func:`window_weights` gives them.
        reduction: One of ``REDUCTIONS``.

    Returns:
        ``(R, C)``.
    """
    if len(first) == len(scores) or reduction == "first":
        return scores[first]
    if reduction == "max":
        return np.maximum.reduceat(scores, first, axis=0)
    weight = weights.astype(np.float32) if reduction == WEIGHTED else np.ones(len(scores), np.float32)
    total: NDArray[np.float32] = np.add.reduceat(scores * weight[:, None], first, axis=0)
    return (total / np.add.reduceat(weight, first)[:, None]).astype(np.float32)


def window_weights(documents: NDArray[np.int64], asked: Asked) -> NDArray[np.int64]:
    """``(P,)`` tokens of each window, special tokens included; of a pair, those of its second text left out.

    Without token details all tokens are counted: then nobody weighs pairs (:func:`needs_details`).
    """
    lengths = asked.tokens.lengths
    if asked.tokens.details is not None:
        lengths = lengths - np.add.reduceat(asked.tokens.details.parts == _SECOND_PART, asked.tokens.cu_seqlens[:-1])
    return lengths[documents]


def window_evidence(
    scores: NDArray[np.float32],
    names: pa.Array,
    documents: NDArray[np.int64],
    *,
    first: NDArray[np.int64],
    asked: Asked,
) -> pa.Array:
    """List the windows of each row with label, score and place.

    Args:
        scores: ``(P, C)`` of windows.
        names: C class names.
        documents: ``(P,)`` the windows.
        first: ``(R,)``, the first window of each row among them.
        asked: The texts, with token details.
    """
    kind = schema.window_evidence_type()
    starts, ends = _extents(documents, asked)
    columns = [*best_classes(scores, names), pa.array(starts, pa.int32()), pa.array(ends, pa.int32())]
    items = pa.StructArray.from_arrays(columns, fields=list(kind.value_type))
    return pa.ListArray.from_arrays(pa.array([*first, len(scores)], pa.int32()), items, type=kind)


def window_order(documents: NDArray[np.int64], asked: Asked) -> NDArray[np.int64]:
    """The order in which the sequences of a row stand together window by window, instead of the other way round."""
    sequences = asked.tokens.sequences[documents]
    order: NDArray[np.int64] = np.lexsort((sequences, asked.tokens.windows[documents], asked.sequences.rows[sequences]))
    return order


def _extents(documents: NDArray[np.int64], asked: Asked) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where the first text of each window begins and ends, in characters."""
    details, cu_seqlens = asked.tokens.details, asked.tokens.cu_seqlens
    if details is None:
        raise ValueError("window evidence: expected token details, found none")
    starts, ends = np.zeros(len(documents), np.int32), np.zeros(len(documents), np.int32)
    for place, document in enumerate(documents.tolist()):
        span = slice(int(cu_seqlens[document]), int(cu_seqlens[document + 1]))
        offsets = details.offsets[span][details.parts[span] == _FIRST_PART]
        if len(offsets):
            starts[place], ends[place] = offsets[0, 0], offsets[-1, 1]
    return starts, ends
