"""What a benchmark says: the passes of a race as figures, in JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilbatch.bench.cards import Card, card_of
from distilbatch.bench.competitor import JOB, LIMIT, MODEL
from distilbatch.bench.documents import Lengths
from distilbatch.bench.machine import describe_machine, versions_of
from distilbatch.bench.prepare import Prepared
from distilbatch.bench.race import Pass, Standing
from distilbatch.bench.ratios import compare_layouts, compare_models, compare_speed, ratio_by_round
from distilbatch.bench.roster import OURS, PEER
from distilbatch.bench.sides import Side
from distilbatch.bench.spread import spread
from distilbatch.bench.stages import STAGES
from distilbatch.bench.targets import compare_with_targets
from distilbatch.bench.workload import TEXT_CLASSIFICATION, Workload
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.flops import floor_seconds, forward_flops

_PACKAGES = (
    "torch", "transformers", "ray", "pyarrow", "tokenizers", "numpy", "onnx", "onnxruntime", "onnxscript", "openvino",
    "nncf", "ctranslate2", "sentence-transformers",
)  # fmt: skip


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
    sides: Sequence[Side] = (),
) -> dict[str, Any]:
    """Put everything together.

    Args:
        contest: How it was run.
        prepared: Model and documents.
        workload: What contestants were given.
        lengths: ``(N,)`` tokens of each document.
        standings: Everybody; the limit first.
        sides: The races beside the main one.
    """
    flops = forward_flops(prepared.model_config, lengths, first_only=prepared.first_only)
    limit = next(standing for standing in standings if standing.entrant.kind == LIMIT)
    listed = [standing for standing in standings if standing.entrant.kind in {OURS, PEER}]
    reference = _usable(standings, "reference", "ours-float32")  # the second where tasks have no plain model
    machine = describe_machine()
    card = card_of(machine["gpus"], workload.device)
    main = _Comparison(limit, flops, reference, workload, lengths, card)
    report = {
        "machine": machine,
        "versions": versions_of(*_PACKAGES),
        "settings": {
            "threads": workload.threads,
            "device": workload.device,
            "max_batch_tokens_of_peers": workload.max_batch_tokens,
            **asdict(contest),
        },
        "model": _model(prepared),
        "data": {"source": prepared.source_name, **Lengths.of(lengths).to_dict(), "repeats_left_out": prepared.repeats},
        "reference": reference.entrant.name if reference else None,
        "limit": _limit(limit, flops, len(lengths)),
        "contestants": _all_figures(listed, main),
        "sides": {side.name: _side(side, prepared, standings, main) for side in sides},
        "stages": {standing.entrant.name: _stages(standing) for standing in listed if STAGES in standing.passes},
        "overhead": {
            standing.entrant.name: ratio_by_round(standing.passes[MODEL], standing.passes[JOB], lambda m, j: 1 - m / j)
            for standing in listed
            if {MODEL, JOB} <= standing.passes.keys()
        },
        "ratios": compare_speed(listed),
        "models": compare_models(standings),
        "layout": compare_layouts(listed),
    }
    return {**report, "targets": compare_with_targets(report)}


def _model(prepared: Prepared) -> dict[str, Any]:
    config = prepared.model_config
    return {
        "name": prepared.model_name,
        "task": prepared.head.task,
        "annotations": [head.name for head in prepared.job.heads],
        **_sizes(config),
        "max_length": prepared.max_length,
        "first_token_only": prepared.first_only,
    }


def _sizes(config: DistilBertConfig) -> dict[str, int]:
    return {"layers": config.n_layers, "heads": config.n_heads, "dim": config.dim, "hidden_dim": config.hidden_dim}


def _side(side: Side, prepared: Prepared, standings: Sequence[Standing], main: _Comparison) -> dict[str, Any]:
    config = side.model_config
    listed = [standing for standing in standings if standing.entrant.side == side.name]
    flops = forward_flops(config, side.lengths, first_only=prepared.first_only)
    same = config == prepared.model_config  # the limit's rates are of the main model's shapes
    reference = _usable(standings, f"{side.name}-float32")
    limit = main.limit if same else None
    comparison = _Comparison(limit, flops, reference, side.workload, side.lengths, main.card)
    return {
        "model": {"name": side.model_name, **_sizes(config)},
        "data": Lengths.of(side.lengths).to_dict(),
        "contestants": _all_figures(listed, comparison),
    }


@dataclass(frozen=True, slots=True)
class _Comparison:
    limit: Standing | None
    flops: dict[str, float]
    reference: Standing | None
    workload: Workload
    lengths: NDArray[np.int64]
    card: Card | None


def _scopes(standing: Standing) -> list[str]:
    return [scope for scope in standing.passes if scope != STAGES] or [""]


def _usable(standings: Sequence[Standing], *names: str) -> Standing | None:
    """The first of these that has outputs."""
    usable = {standing.entrant.name: standing for standing in standings if standing.outputs is not None}
    return next((usable[name] for name in names if name in usable), None)


def _all_figures(standings: Sequence[Standing], comparison: _Comparison) -> list[dict[str, Any]]:
    return [_figures(standing, scope, comparison) for standing in standings for scope in _scopes(standing)]


def _figures(standing: Standing, scope: str, comparison: _Comparison) -> dict[str, Any]:
    passes = standing.passes.get(scope, [])
    seconds = [item.seconds for item in passes]
    facts = passes[-1].facts if passes else {}
    computed = facts.get("tokens_computed")
    tokens, documents = int(comparison.lengths.sum()), len(comparison.lengths)
    shares = [share for item in passes if (share := _share(item, standing, comparison)) is not None]
    card = comparison.card
    at_peak = card.floor_s(sum(comparison.flops.values()), standing.entrant.precision) if card else None
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
        "share_of_peak": spread([at_peak / value for value in seconds]) if at_peak else None,
        "padding": round(1 - tokens / computed, 4) if computed else None,
        "resident_bytes": max((item.facts.get("resident_bytes", 0) for item in passes), default=None),
        "facts": {name: value for name, value in facts.items() if name not in {"tokens_computed", "resident_bytes"}},
    }
    return {**values, **accuracy(standing, comparison.reference, comparison.workload)}


def _share(item: Pass, standing: Standing, comparison: _Comparison) -> float | None:
    """The floor by the rates of the same round, over the time: what padding or a full last layer costs counts."""
    timed = comparison.limit.passes.get(LIMIT, ()) if comparison.limit else ()
    for rates in (found.facts["rates"] for found in timed if found.round == item.round):
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
