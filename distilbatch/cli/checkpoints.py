"""The verb that makes checkpoints: ``convert``. What it needs of the model is imported inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distilbatch.cli.console import show, show_json
from distilbatch.cli.failures import verb
from distilbatch.cli.options import AsJson, Debug, Revision, local_name, local_path


def convert(
    source: Annotated[
        str, typer.Argument(metavar="SRC", parser=local_name, help="A BERT checkpoint: a folder, or a hub id.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", parser=local_path, help="Folder to write; new or empty.")],
    revision: Revision = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Convert a BERT encoder to a DistilBERT checkpoint that computes the same."""
    with verb(debug=debug):
        from distilbatch.model.convert import convert_bert  # noqa: PLC0415
        from distilbatch.model.source import locate_named  # noqa: PLC0415

        made = convert_bert(locate_named(source, revision=revision).folder, target)
        if as_json:
            show_json({"folder": str(made.folder), "dropped": list(made.dropped), "notes": list(made.notes)})
            return
        lines = [f"written: {made.folder}"]
        if made.dropped:
            lines.append(f"left out: {', '.join(made.dropped)}")
        show(*lines, *(f"note: {note}" for note in made.notes))
