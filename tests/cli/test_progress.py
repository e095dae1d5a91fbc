"""Progress: rows are counted, those of earlier attempts too, and a line appears now and then."""

from __future__ import annotations

import logging
import threading

import pytest
import tiny_job

import distilbatch.cli.progress
from distilbatch.cli.progress import Meter, Reporter, clock, reporting
from distilbatch.engine.driver import Driver, Progress, resolve_run
from distilbatch.engine.spec import PoolEvent
from distilbatch.errors import InterruptedRunError
from distilbatch.layout import SinkLayout


class StopAfterOneShard(Progress):
    """Stops a run once a shard of it is committed."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def shard_committed(self, result) -> None:
        self._stop.set()


def test_rows_of_an_earlier_attempt_count_as_done(place):
    tiny_job.write_source(place.folder / "source" / "a.parquet", 400)
    config, stop = tiny_job.job_config(place.folder), threading.Event()
    with pytest.raises(InterruptedRunError):
        Driver(resolve_run(config), progress=StopAfterOneShard(stop), stop=stop).run()
    planned = threading.Event()
    reporter = Reporter(SinkLayout(place.sink), planned=planned)
    Driver(resolve_run(config), progress=reporter).run()
    assert planned.is_set()
    assert (reporter.meter.total, reporter.meter.done) == (400, 400)
    assert 0 < reporter.meter.fresh < 400
    assert reporter.line().startswith("tiny/once: 400 of 400 rows, ")


def test_the_rate_and_the_time_left_are_those_of_this_attempt(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 110.0)
    meter = Meter("j/once", total=5000, done=3000, fresh=1000, start=100.0)
    assert meter.figures == "3,000 of 5,000 rows, 100 rows/s, 0:20 left"
    assert Meter("j/once", total=5000, done=2000, start=100.0).figures == "2,000 of 5,000 rows"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65, "1:05"), (3665.2, "1:01:05")])
def test_time_left_reads_like_a_clock(seconds, text):
    assert clock(seconds) == text


def test_a_line_appears_now_and_then(place, monkeypatch, caplog):
    monkeypatch.setattr(distilbatch.cli.progress, "LINE_EVERY_S", 0.01)
    seen = threading.Event()

    class Watcher(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.set()

    log, watcher = logging.getLogger("distilbatch"), Watcher()
    log.setLevel(logging.INFO)
    with reporting(SinkLayout(place.sink), planned=threading.Event()) as reporter:
        log.addHandler(watcher)
        try:
            assert not seen.wait(0.05)  # nothing to tell before there is a plan
            reporter.meter = Meter("j/once", total=10, done=5)
            assert seen.wait(10)
        finally:
            log.removeHandler(watcher)
    assert "j/once: 5 of 10 rows" in caplog.text


def test_what_happens_to_workers_is_logged(caplog):
    caplog.set_level(logging.INFO, "distilbatch")
    reporter = Reporter(SinkLayout(None), planned=threading.Event())
    reporter.event(PoolEvent("started", "worker 7"))
    reporter.event(PoolEvent("died", "a worker died (1 so far): killed", shard=3))
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "started worker 7"),
        ("WARNING", "shard 3: a worker died (1 so far): killed"),
    ]
