from __future__ import annotations

import pyarrow as pa
import pytest

from distilbatch.engine.hooks import run_hook
from distilbatch.errors import ConfigError, DataError

BATCH = pa.record_batch({"text": ["a", "b", None], "id": [1, 2, 3]})


def test_without_a_hook_the_batch_stays_the_same():
    assert run_hook("before", None, BATCH, must_have="text") is BATCH


def test_a_hook_may_change_values_and_columns():
    def hook(batch):
        return pa.record_batch({"text": ["x", "y", "z"], "new": [0, 0, 0]})

    changed = run_hook("before", hook, BATCH, must_have="text")
    assert changed.to_pydict() == {"text": ["x", "y", "z"], "new": [0, 0, 0]}


def test_what_a_hook_raises_is_told_with_its_name():
    def hook(batch):
        raise KeyError("language")

    with pytest.raises(ConfigError, match="pipeline hook 'before' failed; found KeyError: 'language'; fix the hook"):
        run_hook("before", hook, BATCH, must_have="text")


def test_an_error_of_ours_passes_as_it_is():
    def hook(batch):
        raise DataError("the hook's own gate")

    with pytest.raises(DataError, match="the hook's own gate"):
        run_hook("after", hook, BATCH, must_have="text")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "expected a pyarrow.RecordBatch back; found NoneType"),
        (pa.Table.from_batches([BATCH]), "expected a pyarrow.RecordBatch back; found Table"),
        (BATCH.slice(1), "expected 3 rows back, as it was given; found 2 rows; .*never the number or order"),
        (BATCH.select(["id"]), "expected the column 'text' back; found no such column"),
    ],
)
def test_a_hook_is_held_to_its_contract(result, message):
    with pytest.raises(ConfigError, match=f"pipeline hook 'after'; {message}"):
        run_hook("after", lambda batch: result, BATCH, must_have="text")
