"""Who is faster than whom by how much: ratios are taken within a round, as the clock of the machine drifts.

Medians of few rounds say little without their range: a ratio whose range holds 1 shows no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distilbatch.bench.competitor import JOB, MODEL, TEXT
from distilbatch.bench.models import MINILM
from distilbatch.bench.race import MEASURED, Pass, Standing
from distilbatch.bench.roster import OURS, PEER
from distilbatch.bench.spread import spread

# What a scope of ours is compared with: our job, from file to file, does all that a peer's texts to labels does.
_COMPARED = {MODEL: (MODEL,), JOB: (TEXT, JOB)}


def compare_speed(standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """Our speed over each peer's, round by round; in each scope of ours the fastest peer is marked.

    Models are compared within a precision. Peers that take texts are recipes as they are documented, in float32: what
    a user of them would gain in any precision of ours is what counts.
    """
    found = []
    for ours in (standing for standing in standings if standing.entrant.kind == OURS):
        for scope, others in _COMPARED.items():
            rows: list[dict[str, Any]] = [
                {
                    "ours": ours.entrant.name,
                    "peer": peer.entrant.name,
                    "precision": ours.entrant.precision,
                    "peer_precision": peer.entrant.precision,
                    "scope": scope,
                    "peer_scope": other,
                    **speedup(ours.passes[scope], peer.passes[other]),
                    "best_peer": False,
                }
                for peer in standings
                for other in others
                if peer.entrant.kind == PEER and scope in ours.passes and other in peer.passes
                if scope == JOB or peer.entrant.precision == ours.entrant.precision
            ]
            if rows:
                min(rows, key=lambda row: float(row["ratio"]["median"]))["best_peer"] = True
            found += rows
    return found


def compare_models(standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """Speed of MiniLM over the base model in each precision, the model only."""
    by_name = {standing.entrant.name: standing for standing in standings}
    found = []
    for small in (standing for standing in standings if standing.entrant.side == MINILM):
        base = by_name.get(f"ours-{small.entrant.precision}")
        if base is not None and MODEL in base.passes and MODEL in small.passes:
            speed = speedup(small.passes[MODEL], base.passes[MODEL])
            found.append({"name": small.entrant.name, "base": base.entrant.name, **speed})
    return found


def compare_layouts(standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """Speed of one process for each thread over one process with all threads."""
    by_name = {standing.entrant.name: standing for standing in standings if standing.status == MEASURED}
    found = []
    for name, standing in by_name.items():
        team = by_name.get(f"{name}-processes")
        if team is not None and MODEL in team.passes and MODEL in standing.passes:
            speed = speedup(team.passes[MODEL], standing.passes[MODEL])
            found.append({"name": name, "processes": team.about["team"], **speed})
    return found


def speedup(mine: Sequence[Pass], theirs: Sequence[Pass]) -> dict[str, Any]:
    """``ratio``: their time over mine, with its range over the rounds; ``shown``: whether the range leaves out 1.

    One round has no range, and shows nothing.
    """
    ratio = ratio_by_round(mine, theirs, lambda own, other: other / own)
    rounds = {item.round for item in mine} & {item.round for item in theirs}
    shown = ratio is not None and len(rounds) > 1 and not ratio["min"] <= 1 <= ratio["max"]
    return {"ratio": ratio, "shown": shown}


def ratio_by_round(
    mine: Sequence[Pass], theirs: Sequence[Pass], of: Callable[[float, float], float]
) -> dict[str, float] | None:
    """A figure of both times of each round that both have."""
    other = {item.round: item.seconds for item in theirs}
    return spread([of(item.seconds, other[item.round]) for item in mine if item.round in other])
