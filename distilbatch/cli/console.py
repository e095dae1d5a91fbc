"""Results on standard output, everything else on standard error, and how both look."""

from __future__ import annotations

import json
import os
import sys
from typing import TextIO

from rich.console import Console, RenderableType

_PLAIN_WIDTH = 120  # columns of a table in a file or a log


def show(*results: RenderableType) -> None:
    """Print results. A reader that has gone away has seen enough, and changes nothing about the exit code."""
    given = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else _PLAIN_WIDTH
    console = Console(width=given, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        for result in results:
            console.print(result, soft_wrap=isinstance(result, str))  # a path stays in one piece
    _write(sys.stdout, capture.get())


def show_json(value: object) -> None:
    """Print a result for programs."""
    _write(sys.stdout, json.dumps(value, indent=1) + "\n")


def show_text(text: str) -> None:
    """Print text as it is."""
    _write(sys.stdout, text)


def complain(message: str) -> None:
    """Print a message for people on standard error."""
    _write(sys.stderr, printable(message) + "\n")


def printable(text: str) -> str:
    """Text from a table, a file name or a checkpoint without what would drive the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def is_interactive() -> bool:
    """Whether a person watches standard error."""
    return sys.stderr.isatty() and not os.environ.get("CI") and not os.environ.get("NO_COLOR")


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # Python flushes again at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
