from __future__ import annotations

import pytest

from distilbatch.engine.failures import Failures, as_ours
from distilbatch.engine.spec import ShardFailure
from distilbatch.errors import (
    CheckpointError,
    ConfigError,
    ConflictError,
    DataError,
    DistilbatchError,
    InterruptedRunError,
    ResourceError,
)

BUG = as_ours(ZeroDivisionError("division by zero"))


def collect(*errors: DistilbatchError, committed_rows: int = 0) -> Failures:
    failures = Failures("job/once")
    for index, error in enumerate(errors):
        failures.add(ShardFailure(index, error), committed_rows=committed_rows)
    return failures


def test_no_failures_are_no_error():
    Failures("job/once").raise_any()


@pytest.mark.parametrize("kind", [ConfigError, ConflictError, CheckpointError, ResourceError])
def test_what_every_shard_would_meet_ends_the_run_at_once(kind):
    with pytest.raises(kind, match="the cause"):
        collect(kind("the cause"))


def test_bad_data_is_collected_and_named_at_the_end():
    failures = collect(*(DataError(f"group {index}") for index in range(12)))
    with pytest.raises(DataError) as caught:
        failures.raise_any()
    text = str(caught.value)
    assert text.startswith("job/once: 12 shards failed, nothing was published\nshard 0: group 0\nshard 1: group 1\n")
    assert "shard 9: group 9\nand 2 more; mend the source and run the same command again" in text
    assert "group 10" not in text


def test_a_bug_in_one_shard_does_not_end_the_run_but_is_its_error():
    failures = collect(DataError("group 0"), BUG, BUG)
    with pytest.raises(DistilbatchError, match="ZeroDivisionError: division by zero; this is a bug") as caught:
        failures.raise_any()
    assert caught.value.exit_code == 1
    assert caught.value.__cause__ is BUG
    assert isinstance(BUG.__cause__, ZeroDivisionError)  # for the traceback


def test_bugs_before_any_success_end_the_run_soon():
    with pytest.raises(DistilbatchError, match="3 shards failed"):
        collect(*[BUG] * 9)
    collect(*[BUG] * 9, committed_rows=1)


def test_shards_that_were_given_up_are_no_bugs():
    failures = collect(*[InterruptedRunError("given up")] * 9)
    with pytest.raises(DataError, match="9 shards failed"):
        failures.raise_any()


def test_an_error_of_ours_stays_itself():
    error = DataError("x")
    assert as_ours(error) is error
