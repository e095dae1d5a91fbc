"""Results on standard output, everything else on standard error, and how both look."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from io import StringIO
from typing import TextIO

from rich.console import Console, RenderableType

from distilbatch.errors import ResourceError
from distilbatch.masking import mask

_PLAIN_WIDTH = 120  # columns of a table in a file or a log
_WIDTHS = range(20, 1001)  # columns that a table can be laid out for


def forget_unusable_width() -> None:
    """Take COLUMNS out of the environment where it is no width that anything can be printed in.

    Some terminals and cron jobs set it to 0, which rich takes at its word: tables and help would be blank.
    """
    columns = os.environ.get("COLUMNS", "")
    if not (columns.isascii() and columns.isdecimal() and len(columns) < 5 and int(columns) in _WIDTHS):
        os.environ.pop("COLUMNS", None)


def show(*results: RenderableType) -> None:
    """Print results. A reader that has gone away has seen enough, and changes nothing about the exit code."""
    terminal = _is_terminal(sys.stdout)
    width = None if terminal or os.environ.get("COLUMNS") else _PLAIN_WIDTH
    text = StringIO()
    console = Console(file=text, force_terminal=terminal, width=width, markup=False, emoji=False, highlight=False)
    for result in results:
        console.print(result, soft_wrap=isinstance(result, str))  # a path stays in one piece
    show_text("".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines()))


def show_json(value: object) -> None:
    """Print a result for programs."""
    show_text(json.dumps(value, indent=1) + "\n")


def show_text(text: str) -> bool:
    """Print text as it is.

    Returns:
        Whether there is still somebody who reads it.

    Raises:
        ResourceError: The file that standard output goes to cannot grow.
    """
    try:
        return _write(sys.stdout, text)
    except OSError as error:
        _silence(sys.stdout)
        raise ResourceError("standard output cannot be written", found=str(error)) from error


def complain(message: str) -> None:
    """Print a message for people on standard error, without the credentials that a library's error may repeat."""
    with suppress(OSError):  # there is nowhere left to say so
        _write(sys.stderr, printable(mask(message)) + "\n")


def printable(text: str) -> str:
    """Text from a table, a file name or a checkpoint without what would drive the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def is_interactive() -> bool:
    """Whether a person watches standard error."""
    return _is_terminal(sys.stderr) and not os.environ.get("CI") and not os.environ.get("NO_COLOR")


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _write(stream: TextIO | None, text: str) -> bool:
    if stream is None:  # closed by whoever started the program
        return False
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _silence(stream)
        return False
    return True


def _silence(stream: TextIO) -> None:
    # Python flushes again at its end, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
