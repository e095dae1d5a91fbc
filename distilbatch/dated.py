"""Log lines that those of other machines can be sorted among: with date, milliseconds and the offset from UTC."""

from __future__ import annotations

import logging
from datetime import datetime, timezone

from typing_extensions import override

from distilbatch.masking import MaskingFormatter


class DatedFormatter(logging.Formatter):
    """``2026-11-20T05:54:11.591+01:00 INFO message``: ISO 8601, local time."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    @override
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        at = datetime.fromtimestamp(record.created, timezone.utc).astimezone()
        return at.isoformat(timespec="milliseconds")


def date_worker_logs() -> None:
    """Date what a worker's process logs, unless its owner has set logging up: Python itself prints bare messages."""
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(MaskingFormatter(DatedFormatter()))
        root.addHandler(handler)
