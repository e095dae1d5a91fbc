from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest

from distilbatch.engine import watchdog
from distilbatch.engine.stages import StageClock
from distilbatch.engine.watchdog import STACKS_BEGIN, Hang, Watchdog, stacks_here


class Clock:
    """The monotonic clock, by hand; and an alarm that notes when it would go off."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.goes_off: float | None = None
        self.calls = 0

    def monotonic(self) -> float:
        return self.now

    def alarm(self, seconds: float | None) -> None:
        self.calls += 1
        self.goes_off = None if seconds is None else self.now + seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watchdog.time, "monotonic", clock.monotonic)
    return clock


def test_a_step_that_lasts_too_long_is_named_and_one_that_has_ended_is_not(clock):
    watched = Watchdog(10)
    with watched.step("read", 3):
        clock.now += 9
        with watched.step("write", 4):
            assert watched.hang() is None
            clock.now += 2
            assert watched.hang() == Hang("read", 3, 11.0)
    with pytest.raises(ZeroDivisionError), watched.step("read"):
        1 / 0  # noqa: B018
    clock.now += 100
    assert watched.hang() is None


def test_a_sign_of_life_counts_for_all_that_take_turns_and_for_no_other_stage(clock):
    watched = Watchdog(10)
    with watched.step("predict", 1), watched.step("predict", 2), watched.step("tokenize", 1):
        clock.now += 9
        watched.beat("predict")
        clock.now += 2
        assert watched.hang() == Hang("tokenize", 1, 11.0)


def test_without_a_limit_nothing_is_watched(clock):
    watched = Watchdog(None, alarm=clock.alarm)
    with watched.step("read"):
        clock.now += 1e9
        watched.beat("read")
        assert watched.hang() is None
    assert clock.calls == 0


def test_the_alarm_goes_off_soon_after_the_limit_and_never_while_nothing_is_under_way(clock):
    watched = Watchdog(8, alarm=clock.alarm)
    with watched.step("predict"):
        for _ in range(1000):
            clock.now += 0.1
            watched.beat("predict")
            assert clock.now + 8 <= clock.goes_off <= clock.now + 9
    assert clock.goes_off is None
    assert clock.calls < 110  # of 1002 times that something happened
    with watched.step("read"):
        clock.now += 3
        with watched.step("decode"):
            assert clock.goes_off == clock.now + 6  # the one that began first counts
        began = clock.now
        with watched.step("decode"), ExitStack() as others:
            others.enter_context(watched.step("write"))
            assert clock.goes_off == began + 6
    assert clock.goes_off is None


def test_what_is_measured_is_watched(clock):
    watched = Watchdog(10)
    stages = StageClock(watched, 7)
    with stages.measure("decode"):
        clock.now += 11
        assert watched.hang() == Hang("decode", 7, 11.0)

    def slow():
        for item in range(3):
            clock.now += 11
            assert watched.hang() == Hang("read", 7, 11.0)
            yield item

    for _ in stages.measure_each("read", slow()):
        clock.now += 1000  # of whoever takes them
        assert watched.hang() is None


PROGRAM = """
import re, sys, threading, time
from distilbatch.engine.watchdog import EndWithStacks, Watchdog

watched = Watchdog(0.4, alarm=EndWithStacks(open(sys.argv[1], "wb", buffering=0)))

def sleeps():
    time.sleep(60)

def keeps_the_interpreter():
    re.match("(a+)+$", "a" * 64 + "b")

def works():
    for _ in range(8):
        time.sleep(0.1)
        watched.beat("work")

with watched.step("work"):
    thread = threading.Thread(target=globals()[sys.argv[2]])
    thread.start()
    thread.join()
time.sleep(0.8)
"""


@pytest.mark.parametrize(("kind", "code"), [("sleeps", 1), ("keeps_the_interpreter", 1), ("works", 0)])
def test_a_process_that_hangs_ends_with_its_stacks_and_one_that_works_or_rests_goes_on(tmp_path, kind, code):
    file = tmp_path / "stacks"
    ran = subprocess.run([sys.executable, "-c", PROGRAM, file, kind], timeout=50, check=False)
    stacks = file.read_text()
    assert ran.returncode == code
    assert stacks.startswith(STACKS_BEGIN) == (code == 1)
    assert (f"in {kind}\n" in stacks) == (code == 1)


def test_the_stacks_of_this_process_are_those_of_all_its_threads():
    release = threading.Event()

    def waits_in_vain() -> None:
        release.wait()

    thread = threading.Thread(target=waits_in_vain)
    thread.start()
    try:
        time.sleep(0.05)
        stacks = stacks_here()
    finally:
        release.set()
        thread.join()
    assert "in waits_in_vain" in stacks
    assert "in test_the_stacks_of_this_process_are_those_of_all_its_threads" in stacks
