"""The verbs that look at what runs have written: ``status`` and ``verify``.

What they need of the records is imported inside them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from distilbatch.cli.console import show, show_json
from distilbatch.cli.failures import verb
from distilbatch.cli.options import AsJson, Day, Debug, Overrides, Target
from distilbatch.cli.tables import status_tables, verify_tables
from distilbatch.errors import DataError

_CONFIG_SUFFIXES = {".yaml", ".yml"}


def status(
    target: Target, day: Day = None, overrides: Overrides = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Tell how far the runs of a sink are."""
    with verb(debug=debug):
        from distilbatch.report.status import status as status_of  # noqa: PLC0415

        runs = status_of(_sink_folder(target, day=day, overrides=overrides or ()))
        if as_json:
            show_json([run.to_dict() for run in runs])
        else:
            show(*status_tables(runs))


def verify(
    target: Target, day: Day = None, overrides: Overrides = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Check that every planned row is published exactly once and that records and files agree. Exits 3 if not."""
    with verb(debug=debug):
        from distilbatch.report.verify import verify as verify_sink  # noqa: PLC0415

        report = verify_sink(_sink_folder(target, day=day, overrides=overrides or ()))
        if as_json:
            show_json(report.to_dict())
        else:
            show(*verify_tables(report))
        if not report.ok:
            problems = [*report.problems, *report.unfinished]
            raise DataError("\n".join([f"{report.sink} is not whole", *problems]))


def _sink_folder(target: str, *, day: str | None, overrides: Sequence[str]) -> Path:
    """The sink that ``target`` is or names; a folder that is not there is for the caller to refuse."""
    path = Path(target)
    if os.path.isdir(path) or (not os.path.exists(path) and path.suffix not in _CONFIG_SUFFIXES and target != "-"):
        return path
    from distilbatch.config import load_config, render, resolve_date, today_in  # noqa: PLC0415

    config = load_config(target, overrides=overrides)
    chosen = None
    if day is not None:
        chosen = resolve_date(day, today=today_in(config.job.timezone, now=datetime.now(timezone.utc)))
    window = "once" if chosen is None else chosen.isoformat()
    return Path(render(config, day=chosen, window=window).sink.path)
