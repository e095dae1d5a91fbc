"""What a benchmark is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Self

from distilbatch.config import Config
from distilbatch.errors import ConfigError

DEFAULT_ROUNDS = 3
DEFAULT_BUDGET_S = 600.0
ENGINES = ("local", "ray")


@dataclass(frozen=True, slots=True)
class JobSize:
    """How much a timed command labels, and on which engine.

    Args:
        rows: Rows of the source, its first ones.
        engine: ``local`` or ``ray``.
    """

    rows: int
    engine: str

    @classmethod
    def parse(cls, text: str) -> tuple[Self, ...]:
        """Read ``ROWS`` or ``ROWS:ENGINE``, with commas between several; without an engine both are meant.

        Raises:
            ConfigError: It is something else.
        """
        sizes: list[Self] = []
        for word in text.split(",") if text else ():
            rows, _, engine = word.strip().partition(":")
            if not rows.isdecimal() or int(rows) < 1 or engine not in {"", *ENGINES}:
                raise ConfigError("--jobs", expected="ROWS, ROWS:local or ROWS:ray, with commas between", found=word)
            sizes += [cls(int(rows), name) for name in ENGINES if engine in {"", name}]
        return tuple(sizes)


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure, and on what.

    Args:
        config: A job whose annotations, source and settings are taken; None for a mix of documents and a classifier.
        data: Parquet file or folder to draw documents from instead.
        text_column: Its text column.
        model: Checkpoint folder, where no config names one. None or ``base`` for random weights of DistilBERT's
            default size, ``minilm`` for the converted MiniLM; a folder of such a name is written ``./base``.
        documents: How many documents; None takes as many as the budget allows.
        rounds: Rounds to time.
        budget_s: About how long everything may take; rounds are left out to keep it.
        threads: CPU threads; None takes all cores.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
        only: Names or families of contestants; empty for all.
        skip_peers: Whether only ourselves are measured.
        layout: Whether to measure one process for each thread, too.
        jobs: Whole commands to time in place of everything else.
        seed: Of documents and random weights.
    """

    config: Config | None = None
    data: Path | None = None
    text_column: str = "text"
    model: str | None = None
    documents: int | None = None
    rounds: int = DEFAULT_ROUNDS
    budget_s: float = DEFAULT_BUDGET_S
    threads: int | None = None
    device: str = "auto"
    only: Sequence[str] = ()
    skip_peers: bool = False
    layout: bool = False
    jobs: Sequence[JobSize] = ()
    seed: int = 0

    @property
    def measures_base(self) -> bool:
        """Whether the model is DistilBERT's default size."""
        return self.config is None and self.model in {None, "base"}
