"""The verb ``demo``: real documents, a real model, a table to look at. What it needs is imported inside it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from distilbatch.cli.console import show, show_json
from distilbatch.cli.failures import verb
from distilbatch.cli.interrupts import call_interruptibly
from distilbatch.cli.options import AsJson, Debug, local_path
from distilbatch.cli.tables import cell, command, new_table, run_tables

if TYPE_CHECKING:
    from distilbatch.demo.run import DemoReport, Example

_TEXT_CHARACTERS = 72

_log = logging.getLogger("distilbatch")


class EngineType(str, Enum):
    """Where the demo runs."""

    RAY = "ray"
    LOCAL = "local"


def demo(
    out: Annotated[
        Path, typer.Option(parser=local_path, metavar="DIR", help="Folder that everything is kept in.")
    ] = Path("out/demo"),
    engine: Annotated[EngineType, typer.Option(help="A local Ray cluster, or one process.")] = EngineType.RAY,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Build a real model and label the 2,400 package descriptions that ship with distilbatch."""
    with verb(debug=debug):
        report = _run(out, engine.value)
        if as_json:
            show_json(report.run.to_dict())
        else:
            show(*_tables(report))


def _run(out: Path, engine: str) -> DemoReport:
    stop, planned = threading.Event(), threading.Event()

    def work() -> DemoReport:
        from distilbatch.cli.progress import reporting  # noqa: PLC0415
        from distilbatch.demo.run import Demo  # noqa: PLC0415
        from distilbatch.layout import SinkLayout  # noqa: PLC0415

        demo = Demo(out, engine)
        _log.info("building the model in %s, unless it is there", demo.model)
        with reporting(SinkLayout(demo.sink), planned=planned) as reporter:
            return demo.run(progress=reporter, stop=stop)

    return call_interruptibly(work, resumable=planned, stop=stop)


def _tables(report: DemoReport) -> Iterable[RenderableType]:
    yield _example_table(report.examples)
    yield ""
    yield from run_tables(report.run)
    own = ("source.path=YOUR_FOLDER", "source.columns.text=YOUR_COLUMN", "sink.path=OUTPUT_FOLDER")
    settings = [word for setting in (*own, "sink.passthrough=[]", "sink.partition_by=[]") for word in ("-s", setting)]
    yield f"your own Parquet files: {command('run', str(report.config), *settings)}"


def _example_table(examples: Iterable[Example]) -> RenderableType:
    table = new_table("a document of each frequent label", "label", "score")
    table.columns[1].justify = "left"
    for example in examples:
        text = " ".join(example.text.split())
        shown = text if len(text) <= _TEXT_CHARACTERS else text[: _TEXT_CHARACTERS - 1] + "…"
        table.add_row(cell(shown), cell(example.label), f"{example.score:.2f}")
    return table
