from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from distilbatch.engine.stages import Background, StageClock


def stage_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "stage"]


def wait_until(condition, *, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)


class Source:
    """Counts what is taken from it, and notes how it ended."""

    def __init__(self, items: int, *, error_after: BaseException | None = None, close_error: str = "") -> None:
        self.items = items
        self.error_after = error_after
        self.close_error = close_error
        self.produced = 0
        self.closed = False

    def __iter__(self) -> Iterator[int]:
        try:
            for item in range(self.items):
                self.produced += 1
                yield item
            if self.error_after is not None:
                raise self.error_after
        finally:
            self.closed = True
            if self.close_error:
                raise OSError(self.close_error)


def test_items_arrive_in_order_and_the_thread_ends():
    assert list(Background(Source(500), depth=3)) == list(range(500))
    assert stage_threads() == []


def test_an_empty_source_gives_nothing():
    assert list(Background(Source(0))) == []


def test_the_producers_exception_follows_its_items():
    items = iter(Background(Source(3, error_after=ZeroDivisionError("by the producer"))))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="by the producer"):
        next(items)
    assert stage_threads() == []


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_even_an_exception_that_ends_programs_reaches_the_consumer(error):
    with pytest.raises(type(error)):
        list(Background(Source(1, error_after=error)))


def test_something_that_cannot_be_iterated_is_an_error_and_no_hang():
    with pytest.raises(TypeError, match="not iterable"):
        list(Background(None))  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [1, 4])
def test_the_producer_runs_a_bounded_number_ahead(depth):
    source = Source(100)
    with closing(Background(source, depth=depth)) as background:
        items = iter(background)
        for taken in range(1, 6):
            next(items)
            wait_until(lambda taken=taken: source.produced == taken + depth + 1)
            time.sleep(0.02)
            assert source.produced == taken + depth + 1  # in the queue, and one in the thread's hand
        items.close()


def test_a_consumer_that_stops_early_leaves_no_thread_and_an_ended_source():
    source = Source(10**9)
    for item in (items := iter(Background(source, depth=2))):
        if item == 5:
            break
    items.close()
    assert stage_threads() == []
    assert source.closed


def test_closing_before_the_first_item_leaves_no_thread():
    source = Source(10**9)
    Background(source).close()
    assert stage_threads() == []


def test_a_source_that_fails_while_it_is_closed_hurts_nobody(recwarn):
    background = Background(Source(10**9, close_error="disk gone"))
    items = iter(background)
    next(items)
    items.close()
    assert stage_threads() == []
    assert [str(warning.message) for warning in recwarn] == []


def test_a_chain_of_stages_is_torn_down_from_its_end():
    source = Source(10**9)
    with (
        closing(Background(source)) as first,
        closing(Background(item * 2 for item in first)) as second,
        closing(Background(item + 1 for item in second)) as third,
    ):
        items = iter(third)
        assert [next(items) for _ in range(4)] == [1, 3, 5, 7]
        items.close()
    assert stage_threads() == []
    assert source.closed


def test_stages_overlap():
    def slow(items) -> Iterator[int]:
        for item in items:
            time.sleep(0.02)
            yield item

    start = time.perf_counter()
    with closing(Background(slow(range(10)))) as first, closing(Background(slow(first))) as second:
        assert list(slow(second)) == list(range(10))
    assert time.perf_counter() - start < 0.45  # 0.6 s one after the other, 0.24 s overlapped


def test_the_clock_adds_up_by_stage_also_when_a_stage_fails():
    clock = StageClock()
    with clock.measure("read"):
        time.sleep(0.01)
    with pytest.raises(ValueError, match="invalid literal"), clock.measure("read"):
        int(time.sleep(0.01) or "x")
    clock.add("write", 2.0)
    clock.add("write", 0.5)
    assert clock.seconds["read"] >= 0.02
    assert clock.seconds["write"] == 2.5
