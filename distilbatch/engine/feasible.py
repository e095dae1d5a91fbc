"""What no worker could do, refused while nothing is written yet: once a plan is claimed its settings are pinned."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from distilbatch import schema
from distilbatch.engine.inputs import check_columns
from distilbatch.engine.job import Job
from distilbatch.engine.preparation import prepare_head
from distilbatch.pipeline import load_pipeline
from distilbatch.sink.partitions import check_partition_types
from distilbatch.source.listing import Listing


def refuse_impossible(job: Job, listing: Listing) -> None:
    """Refuse settings that do not go with the checkpoints or with the columns of the source.

    What a hook makes of the columns is known only once it has run; it is left to the workers.

    Args:
        job: The job.
        listing: Its source.

    Raises:
        CheckpointError: A checkpoint's config or tokenizer cannot be used.
        ConfigError: An option does not go with its checkpoint, a column is not what a head reads, or rows cannot be
            partitioned by a column.
    """
    for head in job.heads:
        prepare_head(head)
    if not listing.fragments:
        return
    pipeline = load_pipeline(Path(job.config.pipeline)) if job.config.pipeline else None
    if pipeline is None or pipeline.before is None:
        check_columns({field.name: field.type for field in listing.schema}, job.heads)
    if pipeline is None or pipeline.after is None:
        copied = [listing.schema.field(name) for name in job.config.sink.passthrough]
        row = pa.field(schema.ROW, schema.ROW_TYPE, nullable=False)
        check_partition_types(pa.schema([*copied, row]), job.config.sink.partition_by)
