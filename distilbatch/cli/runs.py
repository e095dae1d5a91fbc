"""The verbs that label a table: ``run``, and ``plan``, which only tells what ``run`` would do.

What they need of the engine is imported inside them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from distilbatch.cli.console import show, show_json
from distilbatch.cli.failures import verb
from distilbatch.cli.interrupts import call_interruptibly
from distilbatch.cli.options import AsJson, Configs, Day, Debug, Limit, Overrides
from distilbatch.cli.tables import plan_tables, run_tables
from distilbatch.startup import quick_imports

if TYPE_CHECKING:
    from distilbatch.engine.summary import RunReport


def run(
    configs: Configs,
    day: Day = None,
    limit: Limit = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    exit_no_data: Annotated[
        int, typer.Option(metavar="CODE", min=0, max=255, help="Exit with this code when there was no new input.")
    ] = 0,
    debug: Debug = False,
) -> None:
    """Label a table. The same command resumes a run that was cut short, and does nothing after a finished one."""
    with verb(debug=debug):
        report = _run(configs, day=day, limit=limit, overrides=overrides or ())
        if as_json:
            show_json(report.to_dict())
        else:
            show(*run_tables(report))
        if report.num_rows == 0 and not any(item.rows_this_attempt for item in report.earlier):
            raise typer.Exit(exit_no_data)


def plan(
    configs: Configs,
    day: Day = None,
    limit: Limit = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    forecast: Annotated[bool, typer.Option(help="Time some rows to tell how long the run will take.")] = True,
    debug: Debug = False,
) -> None:
    """Tell what a run would do: rows, shards, tokens, bytes, time. Writes nothing."""
    with verb(debug=debug):
        with quick_imports():
            from distilbatch.config import load_config_files  # noqa: PLC0415
            from distilbatch.engine.forecast import plan as plan_run  # noqa: PLC0415

        config = load_config_files(configs, overrides=overrides or ())
        report = plan_run(config, day=day, limit=limit, forecast=forecast)
        if as_json:
            show_json(report.to_dict())
        else:
            show(*plan_tables(report))


def _run(configs: Sequence[str], *, day: str | None, limit: int | None, overrides: Sequence[str]) -> RunReport:
    stop, planned = threading.Event(), threading.Event()

    def work() -> RunReport:
        with quick_imports():
            from distilbatch.cli.progress import reporting  # noqa: PLC0415
            from distilbatch.config import load_config_files  # noqa: PLC0415
            from distilbatch.engine.driver import Driver, resolve_run  # noqa: PLC0415

        config = load_config_files(configs, overrides=overrides)
        job = resolve_run(config, day=day, limit=limit)
        with reporting(job.sink, planned=planned) as reporter:
            return Driver(job, progress=reporter, stop=stop).run()

    return call_interruptibly(work, resumable=planned, stop=stop)
