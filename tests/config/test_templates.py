"""Dates: the words of ``--date``, the day it is somewhere, and templates in paths."""

from __future__ import annotations

from datetime import date, datetime, timezone

import pytest

from distilbatch.config import Config, load_config, render, resolve_date, today_in
from distilbatch.config.templates import template_problem
from distilbatch.errors import ConfigError

DAY = date(2026, 3, 9)


def config(source: str = "in", sink: str = "out") -> Config:
    annotate = [{"name": "topic", "task": "text-classification", "model": "m"}]
    return load_config({"source": {"path": source}, "annotate": annotate, "sink": {"path": sink}}, environ={})


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("in", "in"),
        ("in/{{ date }}", "in/2026-03-09"),
        ("in/{{date}}/{{ window }}", "in/2026-03-09/w1"),
        ("in/{{ date:%Y/%m/%d }}/x", "in/2026/03/09/x"),
        ("{{ date:year=%Y }}", "year=2026"),
        ("{{ date:%G-W%V }}", "2026-W11"),
        ("{{ date:%j%y }}", "06826"),
        ("a}b{c", "a}b{c"),
    ],
)
def test_templates_in_both_paths_are_filled_in(template, path):
    rendered = render(config(template, template), day=DAY, window="w1")
    assert (rendered.source.path, rendered.sink.path) == (path, path)


def test_only_the_paths_change():
    before = config("{{ date }}")
    after = render(before, day=DAY, window="w1")
    assert before.source.path == "{{ date }}"
    assert after.semantic() == before.semantic()
    assert after.annotate == before.annotate


def test_a_date_template_without_a_date_names_the_remedy():
    with pytest.raises(ConfigError) as caught:
        render(config(sink="out/{{ date:%Y }}"), day=None, window="once")
    assert str(caught.value) == (
        "sink.path: '{{ date:%Y }}' needs the date of the run; "
        "run with --date yesterday, --date today or --date YYYY-MM-DD"
    )
    assert render(config("in/{{ window }}"), day=None, window="once").source.path == "in/once"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{ day }}", "unknown template '{{ day }}'; expected {{ date }}, {{ date:%Y/%m/%d }} or {{ window }}"),
        ("{{ }}", "unknown template '{{ }}'"),
        ("{{ window:%Y }}", "unknown template '{{ window:%Y }}'"),
        ("{{ date: }}", "unknown date format in '{{ date: }}'; expected the codes %Y %m %d %j %y %G %V"),
        ("{{ date:%B }}", "unknown date format in '{{ date:%B }}'"),
        ("{{ date:%s }}", "unknown date format in '{{ date:%s }}'"),
        ("{{ date:%Y% }}", "unknown date format in '{{ date:%Y% }}'"),
        ("{{ date.__class__ }}", "unknown template '{{ date.__class__ }}'"),
        ("in/{{ date }", "unpaired '{{' or '}}' in 'in/{{ date }'"),
        ("in/date }}", "unpaired '{{' or '}}' in 'in/date }}'"),
        ("{{ date }}/{{", "unpaired '{{' or '}}' in '{{ date }}/{{'"),
    ],
)
def test_unknown_templates_are_refused(text, problem):
    assert template_problem(text).startswith(problem)
    with pytest.raises(ConfigError, match=r"^source\.path: un"):
        config(text)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("today", date(2026, 3, 1)),
        ("yesterday", date(2026, 2, 28)),
        ("2024-02-29", date(2024, 2, 29)),
    ],
)
def test_dates_are_words_or_days(text, day):
    assert resolve_date(text, today=date(2026, 3, 1)) == day


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-02-29", "20260301", "2026-W10-1", "2026-3-1", "2026-03-01T00"])
def test_other_dates_are_refused(text):
    with pytest.raises(ConfigError) as caught:
        resolve_date(text, today=DAY)
    assert str(caught.value) == f"--date; expected today, yesterday or a day as YYYY-MM-DD; found {text!r}"


@pytest.mark.parametrize(
    ("zone", "now", "day"),
    [
        ("UTC", "2026-03-09T23:59:59+00:00", date(2026, 3, 9)),
        ("Asia/Tokyo", "2026-03-09T15:00:00+00:00", date(2026, 3, 10)),
        ("America/New_York", "2026-03-09T03:30:00+00:00", date(2026, 3, 8)),
        # Clocks go forward in Berlin on 2026-03-29: midnight is 23:00 UTC before that day and 22:00 UTC after it.
        ("Europe/Berlin", "2026-03-28T22:59:59+00:00", date(2026, 3, 28)),
        ("Europe/Berlin", "2026-03-28T23:00:00+00:00", date(2026, 3, 29)),
        ("Europe/Berlin", "2026-03-29T21:59:59+00:00", date(2026, 3, 29)),
        ("Europe/Berlin", "2026-03-29T22:00:00+00:00", date(2026, 3, 30)),
        # And back on 2026-10-25, a day of 25 hours.
        ("Europe/Berlin", "2026-10-24T22:00:00+00:00", date(2026, 10, 25)),
        ("Europe/Berlin", "2026-10-25T22:59:59+00:00", date(2026, 10, 25)),
        ("Europe/Berlin", "2026-10-25T23:00:00+00:00", date(2026, 10, 26)),
    ],
)
def test_the_day_is_that_of_the_jobs_time_zone(zone, now, day):
    assert today_in(zone, now=datetime.fromisoformat(now)) == day


@pytest.mark.parametrize(
    ("now", "yesterday"),
    [
        # Fifteen minutes into the day after the long one: 24 hours earlier is still yesterday's first hour or today.
        ("2026-10-25T23:15:00+00:00", date(2026, 10, 25)),
        # Shortly after midnight after the day of 23 hours: 24 hours earlier is the day before yesterday.
        ("2026-03-29T22:15:00+00:00", date(2026, 3, 29)),
    ],
)
def test_yesterday_is_a_day_of_the_calendar_and_not_24_hours(now, yesterday):
    today = today_in("Europe/Berlin", now=datetime.fromisoformat(now))
    assert resolve_date("yesterday", today=today) == yesterday


def test_a_clock_without_a_time_zone_is_refused():
    with pytest.raises(ValueError, match="expected a time with a time zone"):
        today_in("UTC", now=datetime(2026, 3, 9, tzinfo=timezone.utc).replace(tzinfo=None))
