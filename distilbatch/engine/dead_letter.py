"""The dead letter: rows that could not be annotated, with their text, so that they can be looked at and retried.

Derived from the elected output and the source after a run, hence never a second output to keep consistent.
Null and empty rows are not in it: there is nothing to retry.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distilbatch import schema
from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import PlanRecord, ShardRecord
from distilbatch.engine.job import Job
from distilbatch.errors import DistilbatchError
from distilbatch.layout import published_name
from distilbatch.records import Fragment, RowStatus
from distilbatch.sink.parquet import ParquetStager
from distilbatch.sink.utf8 import valid_utf8
from distilbatch.source.reader import DEFAULT_BATCH_ROWS, ERROR_ROWS, read_shard

_log = logging.getLogger("distilbatch")


def write_dead_letter(job: Job, plan: PlanRecord, ledger: RunLedger, source_schema: pa.Schema) -> None:
    """Write the run's error rows with their text; removes an older one when there are none.

    Args:
        job: The job.
        plan: Its plan.
        ledger: Its records; all shards must have one.
        source_schema: The columns to give each row back with.
    """
    final = ledger.layout.dead_letter
    temporary = final.with_name(f"{uuid4().hex}.tmp")
    stager = ParquetStager(lambda part: temporary, footer={"run_key": plan.run_key, "plan_id": plan.plan_id})
    with stager:
        for batch in _error_rows(job, plan, ledger, source_schema):
            stager.write(batch)
        files = stager.close()
    if files:
        os.replace(temporary, final)
    else:
        final.unlink(missing_ok=True)


def _error_rows(job: Job, plan: PlanRecord, ledger: RunLedger, source_schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for shard in plan.shards:
        record = ledger.shard(shard.index)
        if record is None or not record.statuses.get(RowStatus.ERROR.value):
            continue
        fragment = plan.fragments[shard.fragment]
        errors = dict(errors_of(ledger, record))
        for start, stop in _runs(sorted(errors)):
            yield from _with_source(job, fragment, range(start, stop), errors, source_schema)


def _runs(rows: list[int]) -> Iterator[tuple[int, int]]:
    """Ranges that hold all rows, which rise: what lies close together is read at once."""
    start = 0
    for end, row in enumerate(rows, 1):
        if end == len(rows) or rows[end] - row > DEFAULT_BATCH_ROWS:
            yield rows[start], row + 1
            start = end


def errors_of(ledger: RunLedger, record: ShardRecord) -> Iterator[tuple[int, str | None]]:
    """The source rows of a shard that are error rows, with their errors, from its published or staged files."""
    for part, file in enumerate(record.files):
        name = published_name(record.index, record.shard_id, part, len(record.files))
        path = ledger.layout.published(file.partition, name)
        if not path.exists():
            path = ledger.layout.staging / file.name
        try:
            rows = pq.ParquetFile(path).read(columns=[schema.ROW])
        except OSError as error:
            # Readers may have taken it away already; the run is committed all the same.
            _log.warning("%s: its error rows are not in the dead letter: %s", path, error)
            continue
        column = rows.column(schema.ROW).combine_chunks()
        broken = column.filter(pc.equal(column.field(schema.STATUS), RowStatus.ERROR.value))
        for item in broken.to_pylist():
            yield item[schema.SOURCE_ROW], item[schema.ERROR]


def _with_source(
    job: Job, fragment: Fragment, rows: range, errors: Mapping[int, str | None], source_schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Give the rows among ``rows`` that are in ``errors`` back as the source has them, with place and error."""
    missing = [row for row in rows if row in errors]
    try:
        for item in read_shard(
            job.source_root,
            fragment,
            rows.start,
            rows.stop,
            schema=source_schema,
            text_column=job.config.source.columns.text,
            on_bad_rows=ERROR_ROWS,
        ):
            stop = item.row_start + item.batch.num_rows
            here = [row for row in missing if row < stop]
            missing = missing[len(here) :]
            batch = item.batch.take(pa.array([row - item.row_start for row in here], pa.int64()))
            yield _with_place(batch, fragment, here, errors)
    except DistilbatchError:
        # The source has moved on since; the places and the errors are still worth having.
        nulls = [pa.nulls(len(missing), field.type) for field in source_schema]
        yield _with_place(pa.RecordBatch.from_arrays(nulls, schema=source_schema), fragment, missing, errors)


def _with_place(
    batch: pa.RecordBatch, fragment: Fragment, rows: list[int], errors: Mapping[int, str | None]
) -> pa.RecordBatch:
    place = [
        pa.array([fragment.path] * len(rows), pa.string()),
        pa.array(rows, pa.int64()),
        pa.array([errors[row] for row in rows], pa.string()),
    ]
    names = [*batch.schema.names, schema.SOURCE_FILE, schema.SOURCE_ROW, schema.ERROR]
    return pa.RecordBatch.from_arrays([*map(valid_utf8, batch.columns), *place], names=names)
