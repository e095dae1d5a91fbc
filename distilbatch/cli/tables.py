"""Reports of the library as tables and lines for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from distilbatch.cli.console import printable

if TYPE_CHECKING:
    from distilbatch.engine.forecast import PlanReport
    from distilbatch.engine.summary import RunReport
    from distilbatch.report.status import RunStatus
    from distilbatch.report.verify import VerifyReport

MAX_LABELS = 10
_MAX_LISTED = 10


def run_tables(report: RunReport) -> Iterable[RenderableType]:
    """What a run did, where the result is, and what to do next."""
    for earlier in report.earlier:
        yield f"finished first: {earlier.run_key}, {earlier.num_rows:,} rows"
    yield facts(f"{report.run_key}: {report.state}", _run_facts(report))
    for head, counts in report.label_counts.items():
        yield ""
        yield label_table(head, counts)
    yield ""
    yield from _listed("left out", report.bad_files)
    yield f"data: {report.data}"
    yield f"next: {command('verify', str(Path(report.data).parent))}"


def _run_facts(report: RunReport) -> Iterable[tuple[str, str]]:
    statuses = ", ".join(f"{status} {rows:,}" for status, rows in sorted(report.statuses.items(), key=_by_count))
    yield "rows", f"{report.num_rows:,}" + (f" ({statuses})" if statuses else "")
    if report.rows_this_attempt:
        yield "this time", f"{report.rows_this_attempt:,} rows in {duration(report.seconds)}"
        yield "speed", f"{report.rows_per_s:,.1f} docs/s"
    elif not report.num_rows:
        yield "", "no new input: there was nothing to label"
    repeated = f" ({report.documents_repeated:,} repeated documents computed once)" if report.documents_repeated else ""
    yield "tokens", f"{report.tokens:,}{repeated}"
    if report.precision is not None:
        yield "precision", f"{report.precision['precision']}: {report.precision['basis']}"
    yield "files", f"{report.num_files:,}"


def label_table(head: str, counts: Mapping[str, int]) -> RenderableType:
    """The most frequent labels of an annotation."""
    table = new_table(head, "rows", "share")
    total = sum(counts.values())
    ranked = sorted(counts.items(), key=_by_count)
    for label, rows in ranked[:MAX_LABELS]:
        table.add_row(cell(label), f"{rows:,}", f"{rows / total:.1%}")
    if rest := ranked[MAX_LABELS:]:
        rows = sum(count for _, count in rest)
        table.add_row(f"({len(rest)} more)", f"{rows:,}", f"{rows / total:.1%}")
    return table


def plan_tables(report: PlanReport) -> Iterable[RenderableType]:
    """What a run would do."""
    yield facts(f"{report.run_key}: {report.state}", _plan_facts(report))
    yield from _listed("finished first", report.unfinished)
    yield from _listed("left out", report.bad_files)
    yield from _listed("changed since it was planned, so the run will stop", report.changed_files)
    yield "Nothing was written."


def _plan_facts(report: PlanReport) -> Iterable[tuple[str, str]]:
    yield "source files", f"{report.files:,} ({size(report.source_bytes)}, text {size(report.text_bytes)})"
    yield "rows", f"{report.rows:,}" + _left(report.rows_left, report.rows)
    yield "shards", f"{report.shards:,}" + _left(report.shards_left, report.shards)
    for name, source in report.model_sources.items():
        yield f"model of {name}", source
    if report.rows_claimed:
        yield "labelled by other runs", f"{report.rows_claimed:,} rows"
    yield "files to write", f"{report.output_files:,}" + ("" if report.output_files_exact else " or more")
    for name, digest in report.model_fingerprints.items():
        yield f"model of {name}", digest[:12]
    yield "precision", f"{report.precision}: {report.precision_basis}"
    if report.estimate is not None:
        yield "tokens, about", f"{report.estimate.tokens:,} ({report.estimate.truncated_share:.1%} of rows are cut off)"
        if report.estimate.seconds is not None:
            yield "time, about", duration(report.estimate.seconds)
        yield "estimated from", report.estimate.basis


def status_tables(runs: Sequence[RunStatus]) -> Iterable[RenderableType]:
    """How far the runs of a sink are."""
    table = new_table("run", "state", "shards", "rows", "errors", "worked on by")
    for run in runs:
        owner = "" if run.owner is None else f"process {run.owner.pid} on {run.owner.host} ({run.owner.liveness})"
        table.add_row(
            cell(run.run_key),
            run.state,
            f"{run.shards_done:,} of {run.shards:,}",
            f"{run.rows_done:,} of {run.rows:,}",
            f"{run.error_rows:,}",
            cell(owner),
        )
    yield table
    yield from _listed("problems", [problem for run in runs for problem in run.problem.splitlines()])


def verify_tables(report: VerifyReport) -> Iterable[RenderableType]:
    """What a verification looked at; its problems are the error message of the verb."""
    table = new_table("run", "state", "rows", "files")
    for run in report.runs:
        table.add_row(cell(run.run_key), run.state, f"{run.rows:,}", f"{run.files:,}")
    yield table
    yield from _listed("notes", report.notes)
    if report.ok:
        yield f"ok: {report.rows:,} rows in {report.files:,} files, each planned row once"


def facts(title: str, rows: Iterable[tuple[str, str]]) -> RenderableType:
    """Names and values, one a line, below a title."""
    table = Table(title=cell(title), title_justify="left", title_style="bold", box=None, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, cell(value))
    return table


def new_table(first: str, *others: str) -> Table:
    """A table whose first column is on the left and whose others, numbers mostly, are on the right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(cell(first), overflow="fold")
    for name in others:
        table.add_column(cell(name), justify="right", overflow="fold")
    return table


def cell(text: str) -> Text:
    """Text from anywhere as the content of a cell: no markup, no control characters."""
    return Text(printable(text))


def command(name: str, *arguments: str) -> str:
    """A command to try, ready to be pasted into a shell."""
    return shlex.join(["distilbatch", name, *arguments])


def duration(seconds: float) -> str:
    """``0.8 s``, ``4 min 5 s`` or ``2 h 4 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(num_bytes: int) -> str:
    """``512 bytes``, ``3.4 MB`` or ``1.2 GB``."""
    for bound, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= bound:
            return f"{num_bytes / bound:.1f} {unit}"
    return f"{num_bytes} bytes"


def _left(left: int, total: int) -> str:
    return "" if left == total else f" ({left:,} left)"


def _listed(title: str, items: Sequence[str]) -> Iterable[RenderableType]:
    if items:
        yield f"{title}:"
        yield from (f"  {printable(item)}" for item in items[:_MAX_LISTED])
        if len(items) > _MAX_LISTED:
            yield f"  and {len(items) - _MAX_LISTED} more"


def _by_count(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
