"""The verbs about configs: ``config check``, ``config show`` and ``config schema``.

What they need of configs is imported inside them.
"""

from __future__ import annotations

from pathlib import Path

import typer

from distilbatch.cli.console import show, show_json, show_text
from distilbatch.cli.failures import verb
from distilbatch.cli.options import Configs, Debug, Overrides

app = typer.Typer(no_args_is_help=True, help="Check and show configs.")


@app.command()
def check(configs: Configs, overrides: Overrides = None, debug: Debug = False) -> None:
    """Check a config and the pipeline it names. Every problem is listed at once."""
    with verb(debug=debug):
        from distilbatch.config import load_config_files  # noqa: PLC0415
        from distilbatch.pipeline import load_pipeline  # noqa: PLC0415

        config = load_config_files(configs, overrides=overrides or ())
        annotations = config.annotations(load_pipeline(Path(config.pipeline)) if config.pipeline else None)
        show(f"ok: job {config.job.name}, annotations {', '.join(item.name for item in annotations)}")


@app.command("show")
def show_merged(configs: Configs, overrides: Overrides = None, debug: Debug = False) -> None:
    """Print the merged config with every default; values from the environment stay references."""
    with verb(debug=debug):
        from distilbatch.config import show_config  # noqa: PLC0415

        show_text(show_config(configs, overrides=overrides or ()))


@app.command()
def schema(debug: Debug = False) -> None:
    """Print the JSON Schema of configs, for editors."""
    with verb(debug=debug):
        from distilbatch.config import Config  # noqa: PLC0415

        show_json(Config.model_json_schema())
