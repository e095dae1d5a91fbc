"""Puts the verbs together."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from distilbatch import __version__
from distilbatch.cli import checkpoints, configs, demo, doctor, runs, sinks

app = typer.Typer(
    name="distilbatch",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"distilbatch {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[  # noqa: ARG001 - its callback has done the work
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Annotate tables of documents with DistilBERT, exactly once, on a laptop or a Ray cluster."""


app.command()(runs.run)
app.command()(runs.plan)
app.command()(sinks.status)
app.command()(sinks.verify)
app.command()(checkpoints.convert)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.add_typer(configs.app, name="config")


def main() -> None:
    """The ``distilbatch`` program."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A label or a file name that the terminal cannot show must not end a run that is committed.
        sys.stdout.reconfigure(errors="backslashreplace")
    app(prog_name="distilbatch")
