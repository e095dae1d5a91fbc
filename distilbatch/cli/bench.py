"""The verb that measures: ``bench``. The benchmark is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

from distilbatch.cli.console import show, show_json
from distilbatch.cli.failures import verb
from distilbatch.cli.options import AsJson, Configs, Debug, Overrides

DEFAULT_ROWS = 20_000


def bench(
    configs: Configs,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Rows of the job.")] = DEFAULT_ROWS,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Pairs to measure.")] = 3,
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure what the pipeline around the model costs here: a whole job against its forward alone, in turn."""
    with verb(debug=debug):
        from distilbatch.bench.overhead import measure_overhead  # noqa: PLC0415
        from distilbatch.config import load_config_files  # noqa: PLC0415

        figures = measure_overhead(load_config_files(configs, overrides=overrides or ()), limit=limit, rounds=rounds)
        if as_json:
            show_json(figures.to_dict())
            return
        rates = figures.to_dict()
        show(
            f"{figures.rows:,} rows, {figures.documents:,} documents, {figures.tokens:,} tokens; "
            f"{figures.device}, {figures.precision}, {figures.threads} threads, {rounds} rounds",
            f"whole job    {rates['job_documents_per_s']:>10,.1f} documents/s   {_spread(figures.job_s)}",
            f"forward only {rates['model_documents_per_s']:>10,.1f} documents/s   {_spread(figures.model_s)}",
            f"the pipeline around the model takes {figures.overhead:.1%} of the job",
            f"tokens computed / tokens in the documents: {figures.tokens_computed / max(1, figures.tokens):.4f}",
            f"resident memory: {figures.resident_bytes / 2**20:,.0f} MiB",
        )


def _spread(seconds: tuple[float, ...]) -> str:
    return f"{min(seconds):.2f} to {max(seconds):.2f} s"
