"""Sort buffers: record batches of neighbouring rows joined until it pays to sort them by length."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from distilbatch.records import SourceBatch

MAX_BUFFER_BYTES = 32 << 20


def sort_buffers(batches: Iterator[SourceBatch], *, target_rows: int) -> Iterator[SourceBatch]:
    """Join record batches up to ``target_rows`` rows or 32 MiB; unreadable rows stay by themselves."""
    waiting: list[SourceBatch] = []
    for batch in batches:
        if waiting and (batch.error or waiting[-1].error or _is_full(waiting, batch, target_rows)):
            yield _join(waiting)
            waiting = []
        waiting.append(batch)
    if waiting:
        yield _join(waiting)


def _is_full(waiting: list[SourceBatch], batch: SourceBatch, target_rows: int) -> bool:
    together = [item.batch for item in (*waiting, batch)]
    num_rows, num_bytes = sum(b.num_rows for b in together), sum(int(b.nbytes) for b in together)
    return num_rows > target_rows or num_bytes > MAX_BUFFER_BYTES


def _join(batches: list[SourceBatch]) -> SourceBatch:
    if len(batches) == 1:
        return batches[0]
    table = pa.Table.from_batches([item.batch for item in batches]).combine_chunks()
    return SourceBatch(batch=table.to_batches()[0], row_start=batches[0].row_start)
