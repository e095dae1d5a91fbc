"""What we mean to reach, and what a report reached of it.

On CPUs these are minimums against peers and the limit, set for two cores with AVX-512 and bfloat16 on web-like
documents of about 68 tokens; on GPUs, documents a second at 128 tokens, set from published figures of other libraries.
All are for sequence classification on DistilBERT's default size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distilbatch.bench.cards import card_of
from distilbatch.bench.competitor import JOB, MODEL
from distilbatch.bench.sides import FIXED
from distilbatch.bench.workload import TEXT_CLASSIFICATION

REACHED, MISSED, UNCLEAR, NOT_MEASURED = "reached", "missed", "unclear", "not measured"
OTHER_MACHINE, OTHER_DOCUMENTS = "for another kind of machine", "for other documents"
_BASE_SIZES = {"layers": 6, "heads": 12, "dim": 768, "hidden_dim": 3072, "task": TEXT_CLASSIFICATION}
_MEAN_TOKENS, _MEAN_MAY_DIFFER = 68, 15
_SPEED = (  # of ours in a scope over the better of some peers, at least
    ("ours-float32", MODEL, ("openvino-float32", "onnxruntime-float32"), 1.35),
    ("ours-bfloat16", MODEL, ("openvino-bfloat16",), 1.25),
    ("ours-int8", MODEL, ("openvino-int8",), 1.0),
    ("ours-int8", MODEL, ("onnxruntime-int8", "ctranslate2-int8"), 1.6),
    ("ours-float32", JOB, ("huggingface-pipeline",), 15.0),
    ("ours-bfloat16", JOB, ("huggingface-pipeline",), 28.0),
    ("ours-int8", JOB, ("huggingface-pipeline",), 40.0),
)
_SHARES = {"ours-float32": 0.80, "ours-bfloat16": 0.75, "ours-int8": 0.55}  # of the limit, the model only
_OVERHEAD = 0.05  # of the job that is around the model, at most
_FLOAT32_ERROR = 1e-5  # of a logit, at most
_ERROR_RATIO = 0.25  # of int8 over OpenVINO's static int8, at most
_MINILM = 3.5  # times the speed of the base model


@dataclass(frozen=True, slots=True)
class _Row:
    what: str
    target: float
    found: Mapping[str, float] | None
    at_most: bool = False

    def judged(self, elsewhere: str) -> dict[str, Any]:
        """The row in JSON values.

        Args:
            elsewhere: Why the target is not for this report; empty when it is.
        """
        found = self.found and {name: self.found[name] for name in ("median", "min", "max")}
        verdict = NOT_MEASURED if found is None else elsewhere or self._verdict(found)
        return {"what": self.what, "at_most": self.at_most, "target": self.target, "found": found, "verdict": verdict}

    def _verdict(self, found: Mapping[str, float]) -> str:
        if self.at_most:
            return REACHED if found["max"] <= self.target else MISSED if found["min"] > self.target else UNCLEAR
        return REACHED if found["min"] >= self.target else MISSED if found["max"] < self.target else UNCLEAR


def compare_with_targets(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a report reached of the targets for its device.

    Args:
        report: Its contestants, ratios and all else.

    Returns:
        A row for each target: ``what``, ``target``, whether it is ``at_most`` that, what was ``found`` with its range
        over the rounds, and the ``verdict``: unclear where the range holds the target. Nothing for models that no
        targets are set for, and for GPUs without published figures.
    """
    if any(report["model"][name] != value for name, value in _BASE_SIZES.items()):
        return []
    if report["settings"]["device"] != "cpu":
        return [row.judged("") for row in _gpu_rows(report)]
    elsewhere = "" if "avx512_bf16" in report["machine"]["flags"] else OTHER_MACHINE
    if abs(report["data"]["mean"] - _MEAN_TOKENS) > _MEAN_MAY_DIFFER:
        elsewhere = elsewhere or OTHER_DOCUMENTS
    return [row.judged(elsewhere) for row in _cpu_rows(report)]


def _cpu_rows(report: Mapping[str, Any]) -> Iterator[_Row]:
    for ours, scope, peers, least in _SPEED:
        rows = [
            row for row in report["ratios"] if (row["ours"], row["scope"]) == (ours, scope) and row["peer"] in peers
        ]
        # Without one of them nobody knows which is the better.
        ratios = [row["ratio"] for row in rows] if len(rows) == len(peers) else []
        better = min(ratios, key=lambda ratio: float(ratio["median"]), default=None)
        yield _Row(f"{ours} ({scope}) / {' or '.join(peers)}, speed", least, better)
    figures = {item["name"]: item for item in report["contestants"] if item["scope"] == MODEL}
    for name, share in _SHARES.items():
        yield _Row(f"{name}, share of the limit", share, figures.get(name, {}).get("share_of_limit"))
    for name in _SHARES:
        yield _Row(f"{name}, share of the job around the model", _OVERHEAD, report["overhead"].get(name), at_most=True)
    errors = {name: item["max_error"] for name, item in figures.items() if item["max_error"] is not None}
    yield _Row("ours-float32, error", _FLOAT32_ERROR, _point(errors.get("ours-float32")), at_most=True)
    ours_error, peer_error = errors.get("ours-int8"), errors.get("openvino-int8")
    ratio = ours_error / peer_error if ours_error is not None and peer_error else None
    yield _Row("ours-int8 / openvino-int8, error", _ERROR_RATIO, _point(ratio), at_most=True)
    models = {row["base"]: row["ratio"] for row in report["models"]}
    for name in _SHARES:
        yield _Row(f"minilm / {name}, speed", _MINILM, models.get(name))


def _gpu_rows(report: Mapping[str, Any]) -> Iterator[_Row]:
    card = card_of(report["machine"]["gpus"], report["settings"]["device"])
    if card is None or not card.documents_per_s:
        return
    side = report["sides"].get(FIXED)
    measured = [item for item in side["contestants"] if item["documents_per_s"]] if side else []
    halves = [item for item in measured if item["precision"] in {"bfloat16", "float16"}]
    best = max(halves, key=lambda item: float(item["documents_per_s"]["median"]), default=None)
    what = f"{card.name}, 128 tokens, bfloat16 or float16"
    yield _Row(f"{what}: documents/s", card.documents_per_s, best and best["documents_per_s"])
    # The same claim as a share of what the card can do, which says how far there is to go.
    share = best and best["share_of_peak"]
    if best and share:
        target = card.documents_per_s * share["median"] / best["documents_per_s"]["median"]
        yield _Row(f"{what}: share of the card's peak (MFU)", round(target, 3), share)


def _point(value: float | None) -> dict[str, float] | None:
    return None if value is None else {"median": value, "min": value, "max": value}
