"""What every verb does around its work: set up logging, and turn each failure into one message and an exit code."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from distilbatch.cli.console import complain
from distilbatch.cli.logs import configure_logging
from distilbatch.errors import DistilbatchError

INTERNAL_ERROR = 1
INTERRUPTED = 130


@contextmanager
def verb(*, debug: bool) -> Iterator[None]:
    """Run a verb's work inside.

    Args:
        debug: Show tracebacks and debug logs.

    Raises:
        typer.Exit: The work failed; the message is printed, and the code is the one in ``distilbatch.errors``.
    """
    configure_logging(debug=debug)
    try:
        yield
    except typer.Exit:
        raise
    except DistilbatchError as error:
        if debug:
            complain(traceback.format_exc())
        complain(describe(error))
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:  # the last resort: a bug, ours or of a library
        if debug:
            complain(traceback.format_exc())
        complain(f"internal error: {type(error).__name__}: {error}" + ("" if debug else "; run with --debug"))
        raise typer.Exit(INTERNAL_ERROR) from None


def describe(error: DistilbatchError) -> str:
    """The error over several lines: what, expected, found, remedy."""
    lines = [f"error: {error.what}".replace("\n", "\n       ")]
    for word in ("expected", "found", "remedy"):
        if text := getattr(error, word):
            lines.append(f"  {word + ':':<10}{text}")
    return "\n".join(lines)
