"""Puts the verbs together into the program."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from distilbatch import __version__
from distilbatch.cli.bench import bench
from distilbatch.cli.checkpoints import convert
from distilbatch.cli.configs import app as config
from distilbatch.cli.console import forget_unusable_width
from distilbatch.cli.demo import demo
from distilbatch.cli.doctor import doctor
from distilbatch.cli.pipe import pipe
from distilbatch.cli.runs import plan, run
from distilbatch.cli.sinks import status, verify
from distilbatch.cli.words import KeepsWords

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
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Annotate tables of documents with DistilBERT, exactly once, on a laptop or a Ray cluster."""


for verb in (run, plan, status, verify, pipe, bench, convert, demo, doctor):
    app.command(cls=KeepsWords)(verb)
app.add_typer(config, name="config")


def main() -> None:
    """The ``distilbatch`` program."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A label or a file name that the terminal cannot show must not end a run that is committed.
        sys.stdout.reconfigure(errors="backslashreplace")
    forget_unusable_width()
    app(prog_name="distilbatch")
