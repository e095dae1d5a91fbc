"""``jobs/nightly.yaml``: a complete config that names its own command."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from command_lines import parse_command_line

from distilbatch.config import load_config, render

NIGHTLY = Path(__file__).parents[2] / "jobs" / "nightly.yaml"


def test_it_loads_without_any_variable_set():
    config = load_config(NIGHTLY, environ={})
    assert config.job.name == "packages-nightly"
    assert config.engine.type == "ray"
    assert [item.name for item in config.annotations()] == ["topic"]
    assert render(config, day=date(2026, 11, 20), window="2026-11-20") == config  # the sink is one growing table


def test_source_model_and_sink_can_be_set_from_the_environment():
    environ = {"DISTILBATCH_SOURCE": "a", "DISTILBATCH_MODEL": "b", "DISTILBATCH_SINK": "c"}
    config = load_config(NIGHTLY, environ=environ)
    assert (config.source.path, config.annotate[0].model, config.sink.path) == ("a", "b", "c")


def test_one_broken_file_does_not_cost_the_night():
    assert load_config(NIGHTLY, environ={}).source.on_bad_file == "quarantine"


def test_it_opens_with_the_command_that_runs_it():
    first = NIGHTLY.read_text("utf-8").splitlines()[0]
    assert first == "# distilbatch run jobs/nightly.yaml --date yesterday"
    parse_command_line(first.removeprefix("# "))
