"""How many documents a race takes: what everybody computes within the budget, and no more than the rounds need."""

from __future__ import annotations

from collections.abc import Mapping

MIN_DOCUMENTS, ENOUGH_DOCUMENTS = 32, 2000
_EFFICIENCY = 0.6  # of the matrix rate, about, padding included
_ENOUGH_S = 1.0  # of a pass: launches and clocks are noise in one of milliseconds
_ALONE_S = {"cpu": 0.0, "cuda": 5e-3}  # of a document by itself, as in the reference: on a GPU all of it is launches


def affordable_documents(
    rates: Mapping[str, float], document_flops: float, *, passes: float, budget_s: float, device: str
) -> int:
    """The number of documents.

    Args:
        rates: FLOPs a second by precision, ``float32`` among them, which most contestants compute in.
        document_flops: Of a document on average.
        passes: Over all documents by all contestants in all rounds.
        budget_s: For those passes.
        device: ``cpu`` or a CUDA device.

    Returns:
        At least ``MIN_DOCUMENTS``. At most ``ENOUGH_DOCUMENTS``, or what the fastest precision computes in a second
        where that is more: on a large GPU the former are some milliseconds.
    """
    seconds = passes * document_flops / (rates["float32"] * _EFFICIENCY) + _ALONE_S[device.partition(":")[0]]
    enough = max(ENOUGH_DOCUMENTS, _ENOUGH_S * max(rates.values()) * _EFFICIENCY / document_flops)
    return int(min(enough, max(MIN_DOCUMENTS, budget_s / seconds)))
