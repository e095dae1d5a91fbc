"""Logging for the command line: short lines for a person at a terminal, dated lines for a file."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from typing_extensions import override

from distilbatch.cli.console import is_interactive
from distilbatch.dated import DatedFormatter
from distilbatch.masking import MaskingFormatter


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at that moment: a progress bar stands in for it while it is shown."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _ShortFormatter(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def _is_news(record: logging.LogRecord) -> bool:
    # Ray warns that it leaves SIGTERM alone outside the main thread: that is why runs are in another one.
    return "SIGTERM handler is not set" not in record.getMessage()


def configure_logging(*, debug: bool) -> None:
    """Send logs to standard error; calling it again replaces what the last call set up.

    Args:
        debug: Show debug messages too.
    """
    handler = _StderrHandler()
    handler.setFormatter(MaskingFormatter(_ShortFormatter("%(message)s") if is_interactive() else DatedFormatter()))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _StderrHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger("ray._private.worker").addFilter(_is_news)
    logging.getLogger("distilbatch").setLevel(logging.DEBUG if debug else logging.INFO)
