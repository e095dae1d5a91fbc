"""What a benchmark says: the passes of a race as figures, in JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilbatch.bench.competitor import JOB, LIMIT, MODEL, TEXT
from distilbatch.bench.documents import Lengths
from distilbatch.bench.machine import describe_machine, versions_of
from distilbatch.bench.prepare import Prepared
from distilbatch.bench.race import MEASURED, Pass, Standing
from distilbatch.bench.roster import OURS, PEER
from distilbatch.bench.spread import spread
from distilbatch.bench.stages import STAGES
from distilbatch.bench.workload import TEXT_CLASSIFICATION, Workload
from distilbatch.model.flops import floor_seconds, forward_flops

_PACKAGES = (
    "torch", "transformers", "ray", "pyarrow", "tokenizers", "numpy", "onnx", "onnxruntime", "onnxscript", "openvino",
    "nncf", "ctranslate2", "sentence-transformers",
)  # fmt: skip
# What a scope of ours is compared with: our job, from file to file, does all that a peer's texts to labels does.
_COMPARED = {MODEL: (MODEL,), JOB: (TEXT, JOB)}


@dataclass(frozen=True, slots=True)
class Contest:
    """How a race was run.

    Args:
        seed: Of documents and random weights.
        rounds: Rounds done.
        rounds_asked: Rounds wanted; fewer were done to keep the budget.
        budget_s: The budget.
        seconds: What everything took.
    """

    seed: int
    rounds: int
    rounds_asked: int
    budget_s: float
    seconds: float


def build_report(
    contest: Contest,
    prepared: Prepared,
    workload: Workload,
    lengths: NDArray[np.int64],
    standings: Sequence[Standing],
) -> dict[str, Any]:
    """Put everything together.

    Args:
        contest: How it was run.
        prepared: Model and documents.
        workload: What contestants were given.
        lengths: ``(N,)`` tokens of each document.
        standings: Everybody; the limit first.
    """
    flops = forward_flops(prepared.model_config, lengths, first_only=prepared.first_only)
    limit = next(standing for standing in standings if standing.entrant.kind == LIMIT)
    listed = [standing for standing in standings if standing.entrant.kind in {OURS, PEER}]
    reference = _reference(standings)
    figures = [
        _figures(standing, scope, lengths, _Comparison(limit, flops, reference, workload))
        for standing in listed
        for scope in _scopes(standing)
    ]
    return {
        "machine": describe_machine(),
        "versions": versions_of(*_PACKAGES),
        "settings": {
            "threads": workload.threads,
            "device": workload.device,
            "max_batch_tokens_of_peers": workload.max_batch_tokens,
            **asdict(contest),
        },
        "model": _model(prepared),
        "data": {"source": prepared.source_name, **Lengths.of(lengths).to_dict()},
        "reference": reference.entrant.name if reference else None,
        "limit": _limit(limit, flops, len(lengths)),
        "contestants": figures,
        "stages": {standing.entrant.name: _stages(standing) for standing in listed if STAGES in standing.passes},
        "overhead": {
            standing.entrant.name: _ratio(standing.passes[MODEL], standing.passes[JOB], lambda m, j: 1 - m / j)
            for standing in listed
            if {MODEL, JOB} <= standing.passes.keys()
        },
        "ratios": compare_speed(listed),
        "layout": compare_layouts(listed),
    }


def _model(prepared: Prepared) -> dict[str, Any]:
    config = prepared.model_config
    return {
        "name": prepared.model_name,
        "task": prepared.head.task,
        "annotations": [head.name for head in prepared.job.heads],
        "layers": config.n_layers,
        "heads": config.n_heads,
        "dim": config.dim,
        "hidden_dim": config.hidden_dim,
        "max_length": prepared.max_length,
        "first_token_only": prepared.first_only,
    }


@dataclass(frozen=True, slots=True)
class _Comparison:
    limit: Standing
    flops: dict[str, float]
    reference: Standing | None
    workload: Workload


def _scopes(standing: Standing) -> list[str]:
    return [scope for scope in standing.passes if scope != STAGES] or [""]


def _reference(standings: Sequence[Standing]) -> Standing | None:
    """The plain model; where tasks have none of that kind, ourselves in float32."""
    names = ("reference", "ours-float32")
    usable = {standing.entrant.name: standing for standing in standings if standing.outputs is not None}
    return next((usable[name] for name in names if name in usable), None)


def _figures(standing: Standing, scope: str, lengths: NDArray[np.int64], comparison: _Comparison) -> dict[str, Any]:
    passes = standing.passes.get(scope, [])
    seconds = [item.seconds for item in passes]
    facts = passes[-1].facts if passes else {}
    computed = facts.get("tokens_computed")
    tokens, documents = int(lengths.sum()), len(lengths)
    shares = [share for item in passes if (share := _share(item, standing, comparison)) is not None]
    values = {
        "name": standing.entrant.name,
        "kind": standing.entrant.kind,
        "precision": standing.entrant.precision,
        "scope": scope,
        "status": standing.status,
        "reason": standing.reason,
        "about": standing.about,
        "load_s": round(standing.load_s, 3),
        "probe_s": round(standing.probe_s, 4),
        "rounds_s": [round(value, 4) for value in seconds],
        "documents_per_s": spread([documents / value for value in seconds]),
        "tokens_per_s": spread([tokens / value for value in seconds]),
        "share_of_limit": spread(shares),
        "padding": round(1 - tokens / computed, 4) if computed else None,
        "resident_bytes": max((item.facts.get("resident_bytes", 0) for item in passes), default=None),
        "facts": {name: value for name, value in facts.items() if name not in {"tokens_computed", "resident_bytes"}},
    }
    return {**values, **accuracy(standing, comparison.reference, comparison.workload)}


def _share(item: Pass, standing: Standing, comparison: _Comparison) -> float | None:
    """The floor by the rates of the same round, over the time: what padding or a full last layer costs counts."""
    for rates in (
        found.facts["rates"] for found in comparison.limit.passes.get(LIMIT, ()) if found.round == item.round
    ):
        if standing.entrant.precision in rates:
            return floor_seconds(comparison.flops, rates[standing.entrant.precision]) / item.seconds
    return None


def accuracy(standing: Standing, reference: Standing | None, workload: Workload) -> dict[str, float | None]:
    """How far a contestant's outputs are from the reference's, at most; and the share of equal labels, if any."""
    nothing: dict[str, float | None] = {"max_error": None, "agreement": None}
    if standing.outputs is None or reference is None or reference.outputs is None:
        return nothing
    found, wanted = np.load(standing.outputs), np.load(reference.outputs)
    if found.shape != wanted.shape:
        return nothing
    labels = workload.task == TEXT_CLASSIFICATION and wanted.ndim == 2 and wanted.shape[1] > 1
    agreement = float((found.argmax(1) == wanted.argmax(1)).mean()) if labels else None
    return {"max_error": float(np.abs(found - wanted).max()), "agreement": agreement}


def _limit(limit: Standing, flops: dict[str, float], documents: int) -> dict[str, Any]:
    passes = limit.passes.get(LIMIT, [])
    rates: dict[str, dict[str, float]] = {}
    for item in passes:
        for precision, found in item.facts["rates"].items():
            known = rates.setdefault(precision, {})
            known.update({name: max(rate, known.get(name, 0.0)) for name, rate in found.items()})
    floors = {precision: floor_seconds(flops, found) for precision, found in rates.items()}
    return {
        "status": limit.status,
        "reason": limit.reason,
        **limit.about,
        "gflops": {
            precision: {name: round(rate / 1e9, 1) for name, rate in found.items()}
            for precision, found in rates.items()
        },
        "forward_gflop": round(sum(flops.values()) / 1e9, 1),
        "floor_s": floors,
        "documents_per_s": {precision: documents / seconds for precision, seconds in floors.items()},
    }


def _stages(standing: Standing) -> dict[str, Any]:
    job = standing.passes.get(JOB)
    return {**standing.passes[STAGES][-1].facts, "job_busy_s": job[-1].facts.get("busy_s", {}) if job else {}}


def compare_speed(standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """Our speed over each peer's of the same precision, round by round; the fastest peer is marked."""
    found = []
    for ours in (standing for standing in standings if standing.entrant.kind == OURS):
        for scope, others in _COMPARED.items():
            rows: list[dict[str, Any]] = [
                {
                    "ours": ours.entrant.name,
                    "peer": peer.entrant.name,
                    "precision": ours.entrant.precision,
                    "scope": scope,
                    "peer_scope": other,
                    "ratio": _ratio(ours.passes[scope], peer.passes[other], lambda mine, theirs: theirs / mine),
                    "best_peer": False,
                }
                for peer in standings
                if peer.entrant.kind == PEER and peer.entrant.precision == ours.entrant.precision
                for other in others
                if scope in ours.passes and other in peer.passes
            ]
            if rows:
                min(rows, key=lambda row: float(row["ratio"]["median"]))["best_peer"] = True
            found += rows
    return found


def compare_layouts(standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """Speed of one process for each thread over one process with all threads."""
    by_name = {standing.entrant.name: standing for standing in standings if standing.status == MEASURED}
    found = []
    for name, standing in by_name.items():
        team = by_name.get(f"{name}-processes")
        if team is not None and MODEL in team.passes and MODEL in standing.passes:
            ratio = _ratio(team.passes[MODEL], standing.passes[MODEL], lambda many, one: one / many)
            found.append({"name": name, "processes": team.about["team"], "ratio": ratio})
    return found


def _ratio(mine: Sequence[Pass], theirs: Sequence[Pass], of: Any) -> dict[str, float] | None:  # noqa: ANN401
    other = {item.round: item.seconds for item in theirs}
    return spread([of(item.seconds, other[item.round]) for item in mine if item.round in other])
