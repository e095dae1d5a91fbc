"""GPUs whose peak matrix rates are published, and what DistilBERT-base is meant to reach on them.

Peaks are those of NVIDIA's data sheets for dense matrices, in FLOPs a second. The documents a second are at 128 tokens
in half precision, the lower end of what the best published figures of BERT (TensorRT, A100 and T4) come to for the
fewer operations that we compute, and of 35 % of the peak on an H100.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    """A kind of GPU.

    Args:
        name: For people.
        pattern: What the driver calls it.
        peaks: FLOPs a second by precision.
        documents_per_s: What is aimed at; 0 where nothing was set.
    """

    name: str
    pattern: str
    peaks: Mapping[str, float]
    documents_per_s: float = 0.0

    def floor_s(self, flops: float, precision: str) -> float | None:
        """Seconds that operations take at the peak; None where that is not known for a precision."""
        peak = self.peaks.get(precision)
        return flops / peak if peak else None


def _halves(rate: float, int8: float) -> dict[str, float]:
    return {"bfloat16": rate, "float16": rate, "int8": int8}


_CARDS = (
    Card("T4", r"\bT4\b", {"float16": 65e12, "int8": 130e12}, 2_100.0),
    Card("A100", r"\bA100\b", _halves(312e12, 624e12), 16_000.0),
    Card("H100 PCIe", r"\bH100 PCIe\b", _halves(756e12, 1513e12)),
    Card("H100 SXM", r"\bH100\b.*\bHBM3\b", _halves(989e12, 1979e12), 35_000.0),
    Card("H200", r"\bH200\b(?! NVL)", _halves(989e12, 1979e12)),
)


def card_of(gpus: Sequence[str], device: str) -> Card | None:
    """The card behind a device; None where its peak is not known, or there is none.

    Args:
        gpus: Their names, in the order of the driver.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
    """
    kind, _, index = device.partition(":")
    place = int(index or 0)
    if kind != "cuda" or place >= len(gpus):
        return None
    return next((card for card in _CARDS if re.search(card.pattern, gpus[place])), None)
