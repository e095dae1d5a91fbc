"""The share of error rows above which a finished run is not published, because something is wrong as a whole."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import PlanRecord, ShardRecord
from distilbatch.engine.dead_letter import errors_of, write_dead_letter
from distilbatch.engine.job import Job
from distilbatch.errors import DataError
from distilbatch.records import RowStatus

_SHOWN = 3
_SHOWN_CHARACTERS = 120


def refuse_too_many_errors(job: Job, plan: PlanRecord, ledger: RunLedger) -> None:
    """Stop before the commit of a run whose error rows exceed ``sink.max_error_share``; its shards stay recorded.

    The rows are in the dead letter then, although nothing is published, so that they can be looked at.

    Args:
        job: The job.
        plan: Its plan.
        ledger: Its records; all shards must have one.

    Raises:
        DataError: There are more.
    """
    most = job.config.sink.max_error_share
    if most is None:
        return
    errors = sum(_errors_in(record) for record in _records(plan, ledger))
    # Divided, not multiplied: of 100 rows, 29 are a share of 0.29, but 0.29 x 100 is a little less than 29.
    if not errors or errors / plan.num_rows <= most:
        return
    ten_thousandths = -(-errors * 10_000 // plan.num_rows)  # rounded up, so that the number is enough
    write_dead_letter(job, plan, ledger, plan.schema)
    with_errors = (record for record in _records(plan, ledger) if _errors_in(record))
    kinds = _kinds(error for record in with_errors for _, error in errors_of(ledger, record))
    raise DataError(
        f"{plan.run_key}: too many rows could not be annotated, nothing was published",
        expected=f"at most {most * 100:g} % error rows (sink.max_error_share)",
        found=f"{ten_thousandths / 100:g} %, {errors:,} of {plan.num_rows:,} rows: {kinds}",
        remedy=f"look at them in {ledger.layout.dead_letter}; the same command with "
        f"-s sink.max_error_share={ten_thousandths / 10_000:g} publishes what is computed; to have these rows "
        "labelled, mend their cause and write to a new sink.path",
    )


def _records(plan: PlanRecord, ledger: RunLedger) -> Iterator[ShardRecord]:
    for shard in plan.shards:
        record = ledger.shard(shard.index)
        if record is not None:
            yield record


def _errors_in(record: ShardRecord) -> int:
    return record.statuses.get(RowStatus.ERROR.value, 0)


def _kinds(errors: Iterable[str | None]) -> str:
    """The most frequent errors with their counts; those that differ in numbers only are one, shown by its first."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for error in errors:
        kind = re.sub(r"\d+", "0", error or "no message")
        counts[kind] += 1
        examples.setdefault(kind, error or "no message")
    shown = [f"{count:,} x {_short(examples[kind])}" for kind, count in counts.most_common(_SHOWN)]
    if len(counts) > _SHOWN:
        shown.append(f"and {len(counts) - _SHOWN} more")
    return " | ".join(shown)


def _short(error: str) -> str:
    text = " ".join(error.split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
