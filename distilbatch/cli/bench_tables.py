"""A benchmark's report as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import RenderableType

from distilbatch.cli.tables import cell, duration, facts, new_table, size

_LINEAR_NAMES = {"qkv": "dim x 3 dim", "out": "dim x dim", "ffn_in": "dim x hidden", "ffn_out": "hidden x dim"}


def bench_tables(report: Mapping[str, Any]) -> Iterable[RenderableType]:
    """Command and machine, its limit, everybody measured, everybody who was not, ratios, stages and targets."""
    yield facts("measured on", [*_provenance(report), *_setting(report)])
    yield ""
    yield from _limit(report["limit"])
    yield ""
    yield _contestants(report)
    yield from _absent(report)
    yield ""
    yield from _ratios(report)
    yield from _stages(report)
    yield from _targets(report)


def command_tables(report: Mapping[str, Any]) -> Iterable[RenderableType]:
    """Command and machine, and how long each timed command took."""
    machine = report["machine"]
    yield facts(
        "measured on",
        [
            *_provenance(report),
            ("machine", _machine(machine)),
            ("model", report["model"]["name"]),
            ("documents", report["data"]["source"]),
            (
                "rounds",
                f"{report['settings']['rounds']}, interleaved; {duration(report['settings']['seconds'])} in all",
            ),
        ],
    )
    yield ""
    table = new_table("rows", "engine", "seconds", "min", "max", "rows/s", "forward", "memory", "files")
    for item in report["commands"]:
        busy = item["stage_seconds"]
        table.add_row(
            f"{item['rows']:,}",
            item["engine"],
            *(f"{item['seconds'][name]:.2f}" for name in ("median", "min", "max")),
            f"{item['rows_per_s']['median']:,.0f}",
            _percent(busy["forward"] / max(sum(busy.values()), 1e-9)),
            size(item["resident_bytes"]),
            f"{item['num_files']:,}",
        )
    yield table
    if found := report["first_answer_s"]:
        yield f"pipe: first answer after {found['median']:.2f} s ({found['min']:.2f} to {found['max']:.2f})"


def _provenance(report: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Nothing of a report that was saved before reports said it."""
    if found := report.get("provenance"):
        yield "command", found["command"]
        yield "date", found["date"]
        commit = f", commit {found['commit']}" if found["commit"] else ""
        yield "code", f"distilbatch {found['version']}{commit}"


def _machine(machine: Mapping[str, Any]) -> str:
    return f"{machine['cpu']}, {machine['cores']} cores: {' '.join(machine['flags'])}"


def _setting(report: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    machine, settings, data, model = (report[name] for name in ("machine", "settings", "data", "model"))
    yield "machine", _machine(machine)
    if settings["device"] != "cpu":
        yield "device", f"{settings['device']}: {', '.join(machine['gpus'])}"
    yield "threads", f"{settings['threads']}, torch {machine['torch']}"
    sizes = f"{model['layers']} layers, {model['dim']} x {model['hidden_dim']}, {model['heads']} heads"
    yield "model", f"{model['name']}: {sizes}; {model['task']}"
    repeats = f"; {data['repeats_left_out']:,} with the tokens of another left out" if data["repeats_left_out"] else ""
    yield "documents", f"{data['documents']:,} of {data['source']}: {data['tokens']:,} tokens{repeats}"
    yield "tokens each", f"mean {data['mean']:g}, median {data['median']:g}, p90 {data['p90']:g}, max {data['max']}"
    rounds = f"{settings['rounds']} of {settings['rounds_asked']} rounds" if _cut(settings) else f"{settings['rounds']}"
    for name, side in report["sides"].items():
        found = side["data"]
        yield name, f"{side['model']['name']}; {found['documents']:,} documents, {found['mean']:g} tokens on average"
    yield "rounds", f"{rounds}, interleaved; {duration(settings['seconds'])} in all"


def _cut(settings: Mapping[str, Any]) -> bool:
    return bool(settings["rounds"] < settings["rounds_asked"])


def _limit(limit: Mapping[str, Any]) -> Iterable[RenderableType]:
    if limit["reason"]:
        yield f"the limit could not be measured: {limit['reason']}"
        return
    table = new_table("limit, GFLOP/s", *_LINEAR_NAMES.values(), "floor s", "docs/s")
    for precision, rates in limit["gflops"].items():
        shown = [f"{rates[name]:,.0f}" for name in _LINEAR_NAMES]
        rate = limit["documents_per_s"][precision]
        table.add_row(precision, *shown, f"{limit['floor_s'][precision]:.2f}", f"{rate:,.1f}")
    yield table
    for precision, reasons in limit["left_out"].items():
        if precision not in limit["gflops"]:
            yield f"{precision}: {'; '.join(dict.fromkeys(reasons.values()))}"


def _contestants(report: Mapping[str, Any]) -> RenderableType:
    measured = [item for item in _everybody(report) if item["documents_per_s"]]
    shares = {"of limit": "share_of_limit", "of peak": "share_of_peak"}
    if not any(item["share_of_peak"] for item in measured):  # on CPUs, and on cards that are not known
        del shares["of peak"]
    table = new_table(
        "contestant", "scope", "docs/s", "min", "max", *shares, "padding", "error", "same label", "memory"
    )
    for item in measured:
        table.add_row(
            cell(item["name"]),
            item["scope"],
            *(f"{item['documents_per_s'][name]:,.1f}" for name in ("median", "min", "max")),
            *(_percent(item[key] and item[key]["median"]) for key in shares.values()),
            _percent(item["padding"]),
            "" if item["max_error"] is None else f"{item['max_error']:.1e}",
            _percent(item["agreement"]),
            size(item["resident_bytes"]),
        )
    return table


def _everybody(report: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    yield from report["contestants"]
    for side in report["sides"].values():
        yield from side["contestants"]


def _absent(report: Mapping[str, Any]) -> Iterable[RenderableType]:
    for item in _everybody(report):
        if item["status"] != "measured":
            yield cell(f"{item['name']}: {item['status']}: {item['reason']}")


def _ratios(report: Mapping[str, Any]) -> Iterable[RenderableType]:
    if report["ratios"]:
        table = new_table("ours / peer, speed", "scope", "ratio", "min", "max", "")
        for row in report["ratios"]:
            scopes = row["scope"] if row["scope"] == row["peer_scope"] else f"{row['scope']} / {row['peer_scope']}"
            ratio = (f"{row['ratio'][name]:.2f}x" for name in ("median", "min", "max"))
            remarks = ["best peer"] * row["best_peer"] + ["not shown"] * (not row["shown"])
            table.add_row(cell(f"{row['ours']} / {row['peer']}"), scopes, *ratio, ", ".join(remarks))
        yield table
        if not all(row["shown"] for row in report["ratios"]):
            yield "not shown: the range over the rounds holds 1, or there was one round"
        yield ""
    for name, share in report["overhead"].items():
        yield f"{name}: the pipeline around the model takes {share['median']:.1%} of the job"
    for row in report["models"]:
        yield f"{row['name']} / {row['base']}, speed: {_times(row)}"
    for row in report["layout"]:
        yield f"{row['name']}: {row['processes']} processes of one thread / one process: {_times(row)}"


def _targets(report: Mapping[str, Any]) -> Iterable[RenderableType]:
    """Those that something was measured of."""
    rows = [row for row in report["targets"] if row["found"]]
    if rows:
        table = new_table("target", "", "found", "min", "max", "")
        for row in rows:
            bound = f"{'at most' if row['at_most'] else 'at least'} {row['target']:,g}"
            found = (_figure(row["found"][name]) for name in ("median", "min", "max"))
            table.add_row(cell(row["what"]), bound, *found, row["verdict"])
        yield ""
        yield table


def _stages(report: Mapping[str, Any]) -> Iterable[RenderableType]:
    if not report["stages"]:
        return
    names = ("read", "tokenize", "pack", "linear", "attention", "rest", "decode", "write")
    table = new_table("ms of each stage, alone", *names)
    for name, found in report["stages"].items():
        seconds = {**found["stages_s"], **found["forward_s"]}
        table.add_row(cell(name), *(f"{seconds[stage] * 1e3:,.1f}" for stage in names))
    yield ""
    yield table


def _times(row: Mapping[str, Any]) -> str:
    ratio = row["ratio"]
    return f"{ratio['median']:.2f}x ({ratio['min']:.2f} to {ratio['max']:.2f})" + ", not shown" * (not row["shown"])


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
