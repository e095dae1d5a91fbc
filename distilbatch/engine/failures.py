"""Shards that failed: whether the others are worth going on with, and the error that ends the run."""

from __future__ import annotations

from distilbatch.engine.spec import ShardFailure
from distilbatch.errors import DataError, DistilbatchError, RetryError, StopError

_SHOWN = 10
_BUGS_BEFORE_GIVING_UP = 3


class Failures:
    """The failed shards of one attempt at a run.

    Args:
        run_key: For messages.
    """

    def __init__(self, run_key: str) -> None:
        self._run_key = run_key
        self._failures: list[ShardFailure] = []

    def add(self, failure: ShardFailure, *, committed_rows: int) -> None:
        """Note a failure.

        Args:
            failure: The shard and its error.
            committed_rows: Rows that other shards have got through so far.

        Raises:
            DistilbatchError: The other shards would fail as well.
        """
        # Bad data concerns one shard; anything else that a person has to mend would meet every other shard.
        if isinstance(failure.error, StopError) and not isinstance(failure.error, DataError):
            raise failure.error
        self._failures.append(failure)
        if not committed_rows and len(self._bugs()) >= _BUGS_BEFORE_GIVING_UP:
            self.raise_any()

    def raise_any(self) -> None:
        """Raise the error that stands for all failures; do nothing when there are none.

        Raises:
            DataError: Shards could not be read or written.
            DistilbatchError: Shards met a bug.
        """
        if not self._failures:
            return
        lines = [f"shard {failure.index}: {failure.error}" for failure in self._failures[:_SHOWN]]
        if len(self._failures) > _SHOWN:
            lines.append(f"and {len(self._failures) - _SHOWN} more")
        what = "\n".join([f"{self._run_key}: {len(self._failures)} shards failed, nothing was published", *lines])
        if bugs := self._bugs():
            raise DistilbatchError(what) from bugs[0].error
        raise DataError(
            what, remedy="mend the source and run the same command again, or set source.on_bad_file: quarantine"
        ) from self._failures[0].error

    def _bugs(self) -> list[ShardFailure]:
        return [failure for failure in self._failures if not isinstance(failure.error, (StopError, RetryError))]


def as_ours(error: BaseException) -> DistilbatchError:
    """What a worker raised, as an error of ours; anything else than one is a bug."""
    if isinstance(error, DistilbatchError):
        return error
    found = DistilbatchError(f"a worker failed: {type(error).__name__}: {error}", remedy="this is a bug; report it")
    found.__cause__ = error
    return found
