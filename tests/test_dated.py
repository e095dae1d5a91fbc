"""Logs of several machines can be merged: each line has its moment, whatever the time zone of the machine."""

from __future__ import annotations

import logging
import time

import pytest

from distilbatch.dated import DatedFormatter, date_worker_logs


@pytest.fixture
def zone(monkeypatch):
    """Sets the time zone of this process."""

    def zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield zone
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("UTC", "2026-11-20T12:00:00.125+00:00"),
        ("CET-1", "2026-11-20T13:00:00.125+01:00"),
        ("IST-5:30", "2026-11-20T17:30:00.125+05:30"),
        ("PST8", "2026-11-20T04:00:00.125-08:00"),
    ],
)
def test_a_line_has_the_offset_from_utc(zone, name, at):
    zone(name)
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "a %s", ("b",), None)
    record.created = 1795176000.125
    assert DatedFormatter().format(record) == f"{at} WARNING a b"


def test_a_worker_dates_its_lines_unless_its_owner_has_set_logging_up(monkeypatch, capsys):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    date_worker_logs()
    date_worker_logs()
    logging.getLogger("distilbatch").warning("x")
    _, _, rest = capsys.readouterr().err.partition("T")
    assert rest.endswith(" WARNING x\n")
    assert len(root.handlers) == 1
    owned = [logging.NullHandler()]
    monkeypatch.setattr(root, "handlers", owned)
    date_worker_logs()
    assert root.handlers is owned
    assert len(owned) == 1
