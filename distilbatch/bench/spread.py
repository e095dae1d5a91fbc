"""How the figures of several rounds are told."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median, least and most; None of nothing."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)} if values else None
