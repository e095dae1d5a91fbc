"""What a report reached of the targets: by the range over its rounds, and only where a target is meant for it."""

from __future__ import annotations

import pytest

from distilbatch.bench.cards import card_of
from distilbatch.bench.targets import compare_with_targets

H100 = "NVIDIA H100 80GB HBM3 (79 GiB)"


def spread(median, low=None, high=None):
    return {"median": median, "min": median if low is None else low, "max": median if high is None else high}


def contestant(name, **values):
    precision = name.rpartition("-")[2]
    known = {"documents_per_s": spread(1.0), "share_of_limit": None, "share_of_peak": None, "max_error": None}
    return {"name": name, "scope": "model", "precision": precision, **known, **values}


def ratio(ours, peer, found, scope="model"):
    return {"ours": ours, "peer": peer, "scope": scope, "ratio": found}


def report(**sections):
    base = {"layers": 6, "heads": 12, "dim": 768, "hidden_dim": 3072, "task": "text-classification"}
    return {
        "machine": {"flags": ["avx2", "avx512_bf16"], "gpus": []},
        "settings": {"device": "cpu"},
        "model": base,
        "data": {"mean": 66.0},
        **{name: sections.get(name, []) for name in ("contestants", "ratios", "models")},
        **{name: sections.get(name, {}) for name in ("overhead", "sides")},
        **{name: sections[name] for name in sections.keys() & {"machine", "settings", "model", "data"}},
    }


def row(found, what):
    (match,) = [row for row in found if row["what"].startswith(what)]
    return match


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (spread(0.85, 0.81, 0.9), "reached"),
        (spread(0.80), "reached"),
        (spread(0.85, 0.79, 0.9), "unclear"),
        (spread(0.7, 0.6, 0.79), "missed"),
        (None, "not measured"),
    ],
)
def test_the_range_over_the_rounds_decides(found, verdict):
    rows = compare_with_targets(report(contestants=[contestant("ours-float32", share_of_limit=found)]))
    match = row(rows, "ours-float32, share of the limit")
    assert (match["target"], match["found"], match["verdict"]) == (0.8, found, verdict)


@pytest.mark.parametrize(
    ("share", "verdict"), [((0.01, 0.05), "reached"), ((0.04, 0.06), "unclear"), ((0.06, 0.1), "missed")]
)
def test_some_targets_are_upper_bounds(share, verdict):
    rows = compare_with_targets(report(overhead={"ours-int8": spread(share[0], *share)}))
    match = row(rows, "ours-int8, share of the job")
    assert (match["at_most"], match["verdict"]) == (True, verdict)


def test_speed_is_compared_with_the_better_of_the_peers_and_only_where_both_were_measured():
    slower, better = ("ours-float32", "onnxruntime-float32"), ("ours-float32", "openvino-float32")
    job = ratio("ours-float32", "huggingface-pipeline", spread(9.0), scope="job")
    rows = compare_with_targets(report(ratios=[ratio(*slower, spread(1.9)), ratio(*better, spread(1.3)), job]))
    assert row(rows, "ours-float32 (model) / openvino-float32 or")["found"] == spread(1.3)
    assert row(rows, "ours-float32 (job) / huggingface-pipeline")["verdict"] == "missed"
    rows = compare_with_targets(report(ratios=[ratio(*slower, spread(1.9))]))
    assert row(rows, "ours-float32 (model) / openvino-float32 or")["verdict"] == "not measured"


def test_errors_and_minilm_have_targets_too():
    errors = {"ours-float32": 2e-5, "ours-int8": 0.02, "openvino-int8": 0.1}
    contestants = [contestant(name, max_error=error) for name, error in errors.items()]
    models = [{"name": "minilm-int8", "base": "ours-int8", "ratio": spread(3.9, 3.6, 4.0)}]
    rows = compare_with_targets(report(contestants=contestants, models=models))
    assert row(rows, "ours-float32, error")["verdict"] == "missed"
    assert row(rows, "ours-int8 / openvino-int8, error")["found"]["median"] == pytest.approx(0.2)
    assert row(rows, "minilm / ours-int8")["verdict"] == "reached"


@pytest.mark.parametrize(
    ("section", "verdict"),
    [
        ({"machine": {"flags": ["avx2"], "gpus": []}}, "for another kind of machine"),
        ({"data": {"mean": 200.0}}, "for other documents"),
    ],
)
def test_a_target_for_something_else_is_neither_reached_nor_missed(section, verdict):
    shares = [contestant("ours-float32", share_of_limit=spread(0.9))]
    rows = compare_with_targets(report(contestants=shares, **section))
    assert row(rows, "ours-float32, share of the limit")["verdict"] == verdict
    assert row(rows, "ours-int8, share of the limit")["verdict"] == "not measured"


def test_there_are_none_for_other_models():
    found = report()
    assert compare_with_targets({**found, "model": {**found["model"], "layers": 12}}) == []
    assert compare_with_targets({**found, "model": {**found["model"], "task": "fill-mask"}}) == []


def test_a_known_gpu_is_held_to_its_documents_a_second_at_128_tokens_in_half_precision():
    side = [
        contestant("fixed128-int8", documents_per_s=spread(99_000.0)),
        contestant("fixed128-float16", documents_per_s=spread(30_000.0)),
        contestant(
            "fixed128-bfloat16", documents_per_s=spread(40_000.0, 36_000.0, 41_000.0), share_of_peak=spread(0.4)
        ),
    ]
    gpu = {"machine": {"flags": [], "gpus": [H100]}, "settings": {"device": "cuda:0"}}
    speed, share = compare_with_targets(report(sides={"fixed128": {"contestants": side}}, **gpu))
    assert (speed["target"], speed["found"]["median"], speed["verdict"]) == (35_000.0, 40_000.0, "reached")
    assert (share["target"], share["verdict"]) == (0.35, "reached")
    (speed,) = compare_with_targets(report(**gpu))
    assert speed["verdict"] == "not measured"
    assert compare_with_targets(report(**{**gpu, "machine": {"flags": [], "gpus": ["NVIDIA L4 (22 GiB)"]}})) == []


@pytest.mark.parametrize(
    ("gpus", "device", "name"),
    [
        ([H100], "cuda", "H100 SXM"),
        (["NVIDIA H100 PCIe (79 GiB)"], "cuda:0", "H100 PCIe"),
        (["NVIDIA H200 (139 GiB)"], "cuda:0", "H200"),
        (["NVIDIA A100-SXM4-40GB (39 GiB)"], "cuda:0", "A100"),
        (["Tesla T4 (15 GiB)", H100], "cuda:0", "T4"),
        (["Tesla T4 (15 GiB)", H100], "cuda:1", "H100 SXM"),
        (["NVIDIA H100 NVL (93 GiB)"], "cuda:0", None),
        (["NVIDIA T400 4GB (4 GiB)"], "cuda:0", None),
        ([H100], "cuda:1", None),
        ([H100], "cpu", None),
    ],
)
def test_a_card_is_known_by_what_the_driver_calls_it(gpus, device, name):
    found = card_of(gpus, device)
    assert (found and found.name) == name


def test_the_time_at_a_card_s_peak_is_known_for_the_precisions_that_are_published():
    card = card_of(["Tesla T4 (15 GiB)"], "cuda")
    assert card.floor_s(130e12, "float16") == 2.0
    assert card.floor_s(130e12, "bfloat16") is None  # emulated there
