"""The arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def local_name(text: str) -> str:
    """Take a path, or what else names a folder, as an argument or option.

    Raises:
        typer.BadParameter: It is a URL or below ``~``.
    """
    from distilbatch.config.fields import path_problem  # noqa: PLC0415 - takes a while, and only few verbs need it

    if problem := path_problem(str(text)):  # a default is given as it is
        raise typer.BadParameter(problem)
    return text


def local_path(text: str) -> Path:
    """Take a path as an argument or option.

    Raises:
        typer.BadParameter: It is a URL or below ``~``.
    """
    return Path(local_name(text))


Configs = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG", parser=local_name, help="YAML file, or - for standard input; of several, later ones win."
    ),
]
Target = Annotated[
    str,
    typer.Argument(metavar="PATH", parser=local_name, help="The sink's folder, or a config file that names it."),
]
Day = Annotated[
    str | None,
    typer.Option("--date", metavar="DAY", help="The logical window: today, yesterday or YYYY-MM-DD."),
]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Label N rows, as a sample.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", metavar="KEY=VALUE", help="Set a key of the config: -s engine.type=local."),
]
Revision = Annotated[
    str | None, typer.Option("--revision", metavar="REV", help="Branch, tag or commit of a hub id; main if left out.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")]
