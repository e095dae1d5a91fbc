"""Whether two runs of the same rows say the same: labels, spans and tokens, not the digits of scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MIN_COSINE = 0.999  # of two embeddings that count as the same
MAX_SCORE_CHANGE = 0.01  # of a head with one label, a regression, relative to scores above 1


def agreeing(exact: Sequence[pa.Array], found: Sequence[pa.Array]) -> NDArray[np.bool_]:
    """Tell for each annotated row whether all heads agree.

    Args:
        exact: The columns of the heads, as float32 gives them.
        found: The same columns, computed otherwise.

    Returns:
        ``(R,)`` for the R rows that at least one head annotated in ``exact``.
    """
    annotated = np.zeros(len(exact[0]), dtype=np.bool_)
    same = np.ones(len(exact[0]), dtype=np.bool_)
    for a, b in zip(exact, found, strict=True):
        there = a.is_valid().to_numpy(zero_copy_only=False)
        annotated |= there
        alike = _comparison(a)
        pairs = zip(a.to_pylist(), b.to_pylist(), strict=True)
        same &= np.array([x is None or (y is not None and alike(x, y)) for x, y in pairs], dtype=np.bool_)
    return same[annotated]


def _comparison(column: pa.Array) -> Callable[[Any, Any], bool]:
    kind = column.type
    if pa.types.is_struct(kind):
        names = {field.name for field in kind}
        if "label" in names:
            labels = column.drop_null().field("label").unique()
            return _same_score if len(labels) == 1 else lambda a, b: bool(a["label"] == b["label"])
        return lambda a, b: bool(a["choice"] == b["choice"])
    inner = kind.value_type
    if pa.types.is_struct(inner):
        return lambda a, b: _places(a) == _places(b)
    if pa.types.is_list(inner) and pa.types.is_struct(inner.value_type):
        return lambda a, b: _first_tokens(a) == _first_tokens(b)
    return _same_direction


def _same_score(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool(a["label"] == b["label"]) and abs(a["score"] - b["score"]) <= MAX_SCORE_CHANGE * max(1, abs(a["score"]))


def _places(spans: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Spans without their scores: entities by place and group, answers by place."""
    return [(span.get("entity_group"), span["start"], span["end"]) for span in spans]


def _first_tokens(masks: Sequence[Sequence[dict[str, Any]]]) -> list[int | None]:
    return [mask[0]["token"] if mask else None for mask in masks]


def _same_direction(a: Any, b: Any) -> bool:  # noqa: ANN401 - a vector, or a list of them
    x, y = (np.asarray(vectors, dtype=np.float64).reshape(-1) for vectors in (a, b))
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return len(x) == len(y) and (size == 0 or float(x @ y) / size >= MIN_COSINE)
