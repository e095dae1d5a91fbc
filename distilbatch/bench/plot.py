"""A bar plot of a report, written by hand as SVG: no plotting library is needed for some rectangles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_COLORS = {"ours": "#1f6f8b", "peer": "#b8b8b8", "limit": "none"}
_ROW, _BAR, _LEFT, _WIDTH, _RIGHT, _TOP = 24, 16, 250, 520, 230, 64


def plot(report: Mapping[str, Any]) -> str:
    """Draw documents a second of everybody measured, by precision, with spread and the machine's limit.

    Args:
        report: From :func:`distilbatch.bench.run.run_bench`.

    Returns:
        An SVG document.
    """
    rows = _rows(report)
    most = max((row["high"] for row in rows), default=1.0)
    height = _TOP + _ROW * (len(rows) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + _RIGHT}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(12, 24, f"Documents a second: {report['model']['name']}", weight="bold"),
        _text(12, 44, _caption(report), size=11),
    ]
    for place, row in enumerate(rows):
        parts += _bar(row, _TOP + place * _ROW, most)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    measured = [item for item in report["contestants"] if item["documents_per_s"]]
    rows = []
    for precision in dict.fromkeys(item["precision"] for item in measured):
        if limit := report["limit"]["documents_per_s"].get(precision):
            rows.append(
                {
                    "label": f"limit, {precision}",
                    "kind": "limit",
                    "rate": limit,
                    "low": limit,
                    "high": limit,
                    "note": "matrix products alone",
                }
            )
        chosen = [item for item in measured if item["precision"] == precision]
        for item in sorted(chosen, key=lambda item: -float(item["documents_per_s"]["median"])):
            rate, error = item["documents_per_s"], item["max_error"]
            note = "" if error is None else f"error {error:.1e}"
            label = f"{item['name']} ({item['scope']})"
            rows.append(
                {
                    "label": label,
                    "kind": item["kind"],
                    "rate": rate["median"],
                    "low": rate["min"],
                    "high": rate["max"],
                    "note": note,
                }
            )
    return rows


def _bar(row: Mapping[str, Any], top: int, most: float) -> Sequence[str]:
    scale = _WIDTH / most
    middle = top + _BAR / 2
    width = max(1.0, row["rate"] * scale)
    stroke = ' stroke="#444" stroke-dasharray="4 3"' if row["kind"] == "limit" else ""
    spread = (
        f'<line x1="{_LEFT + row["low"] * scale:.1f}" x2="{_LEFT + row["high"] * scale:.1f}" '
        f'y1="{middle}" y2="{middle}" stroke="#222" stroke-width="2"/>'
    )
    return (
        _text(_LEFT - 8, top + 13, row["label"], anchor="end"),
        f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{_COLORS[row["kind"]]}"{stroke}/>',
        spread,
        _text(_LEFT + row["high"] * scale + 8, top + 13, f"{row['rate']:,.1f}   {row['note']}"),
    )


def _caption(report: Mapping[str, Any]) -> str:
    machine, settings, data = report["machine"], report["settings"], report["data"]
    where = ", ".join(machine["gpus"]) if settings["device"] != "cpu" else machine["cpu"]
    return (
        f"{where}, {settings['threads']} threads, torch {machine['torch']}; {data['documents']:,} documents of "
        f"{data['mean']:g} tokens on average; {settings['rounds']} interleaved rounds, bars are medians"
    )


def _text(x: float, y: float, content: str, *, anchor: str = "start", weight: str = "normal", size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}">'
        f"{escape(content)}</text>"
    )
