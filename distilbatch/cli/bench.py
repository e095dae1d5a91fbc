"""The verb that measures: ``bench``. The benchmark is imported inside it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distilbatch.cli.bench_tables import bench_tables, command_tables
from distilbatch.cli.console import show, show_json
from distilbatch.cli.failures import verb
from distilbatch.cli.options import AsJson, Debug, Overrides, local_path
from distilbatch.cli.words import words_of
from distilbatch.errors import ConfigError, SetupError

if TYPE_CHECKING:
    from distilbatch.bench.options import BenchOptions
    from distilbatch.config import Config

DEFAULT_ROUNDS = 3
DEFAULT_BUDGET_S = 600.0


_Configs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG]", help="A job to measure; without one, a classifier over a mix of lengths."),
]
_Data = Annotated[
    Path | None, typer.Option("--data", parser=local_path, metavar="PATH", help="Parquet to draw documents from.")
]
_Text = Annotated[str, typer.Option("--text", metavar="COLUMN", help="Its text column.")]
_Model = Annotated[
    str | None,
    typer.Option("--model", metavar="DIR", help="Checkpoint of a classifier; or minilm; or base, the default."),
]
_Documents = Annotated[
    int | None, typer.Option("--documents", metavar="N", min=1, help="Documents; else what the budget allows.")
]
_Rounds = Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Rounds to time.")]
_Budget = Annotated[float, typer.Option("--budget", metavar="SECONDS", min=1, help="About how long it may take.")]
_Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads of everybody; else all cores.")
]
_Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
_Only = Annotated[str, typer.Option("--only", metavar="NAME,...", help="Contestants: ours, ours-int8, openvino, ...")]
_SkipPeers = Annotated[bool, typer.Option("--skip-peers", help="Measure ourselves and the limit only.")]
_Layout = Annotated[
    bool, typer.Option("--layout", help="Also measure one process for each thread against one with all threads.")
]
_Jobs = Annotated[
    str,
    typer.Option("--jobs", metavar="ROWS,...", help="Time whole commands instead: 1000,50000:ray; and pipe's start."),
]
_Seed = Annotated[int, typer.Option("--seed", help="Of documents and random weights.")]
_Save = Annotated[
    Path | None, typer.Option("--save", parser=local_path, metavar="FILE", help="Write the report as JSON, too.")
]
_Plot = Annotated[
    Path | None, typer.Option("--plot", parser=local_path, metavar="FILE", help="Draw a bar plot, as SVG.")
]


def bench(  # noqa: PLR0913, PLR0917 - the options of a command
    context: typer.Context,
    configs: _Configs = None,
    data: _Data = None,
    text: _Text = "text",
    model: _Model = None,
    documents: _Documents = None,
    rounds: _Rounds = DEFAULT_ROUNDS,
    budget: _Budget = DEFAULT_BUDGET_S,
    threads: _Threads = None,
    device: _Device = "auto",
    only: _Only = "",
    skip_peers: _SkipPeers = False,
    layout: _Layout = False,
    jobs: _Jobs = "",
    seed: _Seed = 0,
    save: _Save = None,
    plot: _Plot = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure this machine's limit, ourselves and other libraries over the same documents, in turn.

    Every contestant runs in a process of its own; those that are not installed or cannot run here are listed. With
    --jobs, whole commands over the first rows of the source are timed instead, from their start to committed output.
    """
    with verb(debug=debug):
        from distilbatch.bench.options import BenchOptions, JobSize  # noqa: PLC0415

        options = BenchOptions(
            config=_load(configs, overrides),
            data=data,
            text_column=text,
            model=model,
            documents=documents,
            rounds=rounds,
            budget_s=budget,
            threads=threads,
            device=device,
            only=tuple(word for word in only.split(",") if word),
            skip_peers=skip_peers,
            layout=layout,
            jobs=JobSize.parse(jobs),
            seed=seed,
        )
        _check_options(options, plot)
        report = _measure(options, words_of(context))
        _write_files(report, save, plot)
        tables = command_tables if options.jobs else bench_tables
        show_json(report) if as_json else show(*tables(report))


def _measure(options: BenchOptions, words: Sequence[str]) -> dict[str, Any]:
    from distilbatch.bench.commands import time_commands  # noqa: PLC0415
    from distilbatch.bench.provenance import describe_provenance  # noqa: PLC0415
    from distilbatch.bench.run import run_bench  # noqa: PLC0415

    provenance = describe_provenance(["bench", *words])
    with _ended_by_sigterm():
        report = time_commands(options) if options.jobs else run_bench(options)
    return {"provenance": provenance, **report}


def _load(configs: list[str] | None, overrides: list[str] | None) -> Config | None:
    if overrides and not configs:
        raise ConfigError("--set", expected="a config to set keys of", found="none")
    from distilbatch.config import load_config_files  # noqa: PLC0415

    return load_config_files(configs, overrides=overrides or ()) if configs else None


def _check_options(options: BenchOptions, plot: Path | None) -> None:
    """Before anything is measured. What is said of contestants is refused where there are none: whole commands."""
    if plot is not None and plot.suffix != ".svg":
        raise ConfigError("--plot", expected="a file name that ends in .svg", found=str(plot))
    if not options.jobs:
        return
    given = {
        "--documents": options.documents is not None,
        "--only": bool(options.only),
        "--skip-peers": options.skip_peers,
        "--layout": options.layout,
        "--plot": plot is not None,
    }
    if names := [name for name, is_given in given.items() if is_given]:
        raise ConfigError("--jobs", expected="whole commands alone", found=f"also {', '.join(names)}")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Unwind on SIGTERM as on Ctrl-C: contestants end, and the folder with exported models goes."""

    def end(number: int, frame: FrameType | None) -> None:
        raise typer.Exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write_files(report: dict[str, Any], save: Path | None, plot: Path | None) -> None:
    from distilbatch.bench import plot as plotting  # noqa: PLC0415

    if save is not None:
        _write(save, json.dumps(report, indent=1) + "\n")
    if plot is not None:
        _write(plot, plotting.plot(report))


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise SetupError(f"{path}: cannot be written", found=str(error)) from error
