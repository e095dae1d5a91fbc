"""Which actor gets which shard, without a cluster."""

from __future__ import annotations

import pytest

from distilbatch.engine.actors.shard_actor import ActorSlot, next_slot


def dispatch(ready: list[bool], waiting: int, *, most: int = 2) -> list[int]:
    """Shards that each actor has when nobody may have another one."""
    slots = [ActorSlot(actor=None, placed=None, start=object(), ready=is_ready) for is_ready in ready]
    while slot := next_slot(slots, waiting=waiting, most=most):
        slot.tasks[object()] = None
        waiting -= 1
    return [len(slot.tasks) for slot in slots]


@pytest.mark.parametrize(
    ("ready", "waiting", "given"),
    [
        ([True, False], 2, [1, 0]),  # the other one is left for the actor that is still starting
        ([True, False], 3, [2, 0]),
        ([True, True], 2, [1, 1]),
        ([True, True], 3, [2, 1]),
        ([True, True], 9, [2, 2]),
        ([False, False], 9, [0, 0]),
        ([True, False, False], 3, [1, 0, 0]),
        ([True], 1, [1]),
        ([True], 9, [2]),
        ([True, True], 0, [0, 0]),
        ([], 5, []),
    ],
)
def test_every_actor_gets_a_shard_before_one_gets_a_second(ready, waiting, given):
    assert dispatch(ready, waiting) == given


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_actor_holds_more_than_it_may(most):
    assert dispatch([True, True], 100, most=most) == [most] * 2


def test_an_actor_that_is_done_takes_what_was_left_for_one_that_never_starts():
    done, never = ActorSlot(None, placed=None, start=object(), ready=True), ActorSlot(None, placed=None, start=object())
    assert next_slot([done, never], waiting=1, most=2) is done
