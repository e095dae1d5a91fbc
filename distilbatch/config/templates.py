"""Dates in paths: ``{{ date }}``, ``{{ date:%Y/%m/%d }}`` and ``{{ window }}`` in ``source.path`` and ``sink.path``.

A fixed little language, not Jinja: nothing in a config can run code. The clock is always an argument.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from distilbatch.errors import ConfigError

if TYPE_CHECKING:
    from distilbatch.config.models import Config

__all__ = ["render", "resolve_date", "template_problem", "today_in"]

_TEMPLATE = re.compile(r"\{\{(.*?)\}\}")
_DATE_FORMAT = re.compile(r"(?:%[YymdjGV]|[^%{}])+")
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_KNOWN = "{{ date }}, {{ date:%Y/%m/%d }} or {{ window }}"
_DATE_REMEDY = "run with --date yesterday, --date today or --date YYYY-MM-DD"


def template_problem(text: str) -> str:
    """Say what is wrong with the templates in ``text``; empty when nothing is."""
    for match in _TEMPLATE.finditer(text):
        word, _, date_format = match[1].strip().partition(":")
        if match[1].strip() in ("date", "window"):
            continue
        if word != "date":
            return f"unknown template '{match[0]}'; expected {_KNOWN}"
        if _DATE_FORMAT.fullmatch(date_format) is None:
            return f"unknown date format in '{match[0]}'; expected the codes %Y %m %d %j %y %G %V"
    rest = _TEMPLATE.sub("", text)
    if "{{" in rest or "}}" in rest:
        return f"unpaired '{{{{' or '}}}}' in {text!r}; expected {_KNOWN}"
    return ""


def render(config: Config, *, day: date | None, window: str) -> Config:
    """Return ``config`` with the templates in ``source.path`` and ``sink.path`` filled in.

    Args:
        config: A checked config.
        day: The date of the run; None where the run has none.
        window: Name of the logical window, such as ``2026-11-20`` or ``once``.

    Raises:
        ConfigError: A path asks for a date and ``day`` is None, or holds a template that does not exist.
    """
    source = _expand("source.path", config.source.path, day=day, window=window)
    sink = _expand("sink.path", config.sink.path, day=day, window=window)
    return config.model_copy(
        update={
            "source": config.source.model_copy(update={"path": source}),
            "sink": config.sink.model_copy(update={"path": sink}),
        }
    )


def _expand(key: str, text: str, *, day: date | None, window: str) -> str:
    if problem := template_problem(text):
        raise ConfigError(f"{key}: {problem}")

    def fill(match: re.Match[str]) -> str:
        word, _, date_format = match[1].strip().partition(":")
        if word == "window":
            return window
        if day is None:
            raise ConfigError(f"{key}: '{match[0]}' needs the date of the run", remedy=_DATE_REMEDY)
        return day.strftime(date_format) if date_format else day.isoformat()

    return _TEMPLATE.sub(fill, text)


def resolve_date(text: str, *, today: date) -> date:
    """Read the value of ``--date``: ``today``, ``yesterday`` or ``YYYY-MM-DD``.

    Raises:
        ConfigError: It is none of these, or no day of the calendar.
    """
    if text == "today":
        return today
    if text == "yesterday":
        return today - timedelta(days=1)  # days of the calendar, so a day of 23 or 25 hours does no harm
    try:
        # fromisoformat reads more spellings from Python 3.11 on; a run key must not depend on the version.
        if _ISO_DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ConfigError("--date", expected="today, yesterday or a day as YYYY-MM-DD", found=repr(text))


def today_in(timezone_name: str, *, now: datetime) -> date:
    """The calendar day that ``now`` falls on in a time zone.

    Args:
        timezone_name: ``job.timezone`` of a checked config.
        now: The present moment, aware of its own time zone.

    Raises:
        ValueError: ``now`` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError(f"now: expected a time with a time zone, found {now.isoformat()}")
    # UTC works on machines without a time zone database.
    zone = timezone.utc if timezone_name == "UTC" else ZoneInfo(timezone_name)
    return now.astimezone(zone).date()
