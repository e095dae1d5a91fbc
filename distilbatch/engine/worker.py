"""A worker: the one place that knows the order of the stages.

    read -> sort buffer -> tokenize -> predict -> decode -> write

Reading, tokenizing and predicting each run in a thread of their own; decoding and writing in the caller's.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import psutil
import pyarrow as pa
from numpy.typing import NDArray

from distilbatch import schema
from distilbatch.commit.store import refuse_unshared
from distilbatch.engine.annotated import TokenizedBuffer, row_array
from distilbatch.engine.attempt import DECODE, PREDICT, PROBE, TOKENIZE, Attempt
from distilbatch.engine.buffers import sort_buffers
from distilbatch.engine.columns import passthrough_column, replace_rows
from distilbatch.engine.crashes import CRASH_MESSAGE
from distilbatch.engine.heads import Heads
from distilbatch.engine.hooks import run_hook
from distilbatch.engine.memory import release_free_memory, steady_memory
from distilbatch.engine.spec import ShardTask, WorkerSpec
from distilbatch.engine.stages import Background, StageClock
from distilbatch.engine.tally import Tally
from distilbatch.engine.watchdog import Watchdog
from distilbatch.errors import ResourceError
from distilbatch.inference.faults import is_lost_device, lost_device
from distilbatch.inference.predictor import BatchObserver
from distilbatch.oserrors import storing
from distilbatch.pipeline import load_pipeline
from distilbatch.records import Fragment, HeadOutput, ShardResult, SourceBatch
from distilbatch.sink.parquet import ParquetStager
from distilbatch.source.open_files import OpenFiles
from distilbatch.source.reader import read_shard


@dataclass(frozen=True, slots=True)
class _Predicted:
    buffer: SourceBatch
    tokenized: TokenizedBuffer
    outputs: list[HeadOutput]


class Worker:
    """Processes shards, one at a time, with models that stay loaded.

    Args:
        spec: What to do.
        heads: The models, if they are loaded already.
        end_process: Called with our error for a device that is lost to this process, before the trace of what it was
            computing is removed. Where it returns, the error is raised.
        watchdog: Told of the work that is under way; None where nobody watches.

    Raises:
        CheckpointError: A checkpoint cannot be used.
        SetupError: The device cannot be used, or the run's plan is not to be seen from here.
        ResourceError: The device has no memory for the models, or fails.
        ConfigError: The pipeline file is wrong.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        heads: Heads | None = None,
        end_process: Callable[[ResourceError], object] = lambda _error: None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._spec = spec
        self._end_process = end_process
        self._watchdog = watchdog or Watchdog(None)
        refuse_unshared(spec.layout.plan)
        steady_memory()
        self._heads = heads or Heads(spec.heads, device=spec.device, max_doc_bytes=spec.max_doc_bytes)
        pipeline = load_pipeline(spec.pipeline) if spec.pipeline else None
        self._read_columns = {spec.text_column} | {name for head in spec.heads for _, name in head.columns}
        self._files = OpenFiles()
        self._before = pipeline.before if pipeline else None
        self._after = pipeline.after if pipeline else None

    @property
    def precision(self) -> str:
        """What this worker computes in."""
        return self._heads.precision

    def process(self, task: ShardTask, *, stop: threading.Event | None = None) -> ShardResult:
        """Label a shard and stage the result durably; nothing becomes visible. Threads may share a worker.

        Args:
            task: The shard.
            stop: Once set, the attempt is given up before its next token batch.

        Raises:
            ConflictError: The source file is not the one that was planned.
            DataError: Rows are damaged, or a hook or the output broke a rule.
            ResourceError: The disk is full, memory ran out, or the device is lost.
            SetupError: The storage of the source or of the output does not answer.
            InterruptedRunError: ``stop`` was set.
        """
        staging = self._spec.layout.staging
        with storing("create", staging):
            staging.mkdir(parents=True, exist_ok=True)
        attempt = Attempt(task, trace=self._spec.layout.trace(task.shard.index), stop=stop)
        clock, start = StageClock(self._watchdog, task.shard.index), time.perf_counter()
        tally = self._tally()
        try:
            with self._stager(attempt) as stager, closing(self._predicted(attempt, clock)) as predicted:
                for item in predicted:
                    with clock.measure("decode"):
                        batch = self._assemble(item, attempt, tally)
                    with clock.measure("write"):
                        stager.write(batch)
                with clock.measure("write"):
                    files = stager.close()
        finally:
            attempt.close()
        release_free_memory()
        metrics = {f"{stage}_s": seconds for stage, seconds in clock.seconds.items()}
        metrics["wall_s"] = time.perf_counter() - start
        metrics["tokens"] = float(tally.tokens)
        metrics["tokens_computed"] = float(tally.tokens_computed)
        metrics["documents_repeated"] = float(tally.documents_repeated)
        metrics["pid"] = float(os.getpid())
        metrics["resident_bytes"] = float(psutil.Process().memory_info().rss)
        return ShardResult(
            index=task.shard.index,
            attempt_id=attempt.attempt_id,
            files=files,
            num_rows=sum(file.num_rows for file in files),
            statuses=dict(tally.statuses),
            schema_sha256=tally.schema_sha256,
            metrics=metrics,
            label_counts={name: dict(counts) for name, counts in tally.labels.items()},
        )

    def probe(self, task: ShardTask, rows: tuple[int, ...], *, stage: str) -> None:
        """Compute rows one by one, and throw the results away: does this process survive them?

        The trace of the stage ``probe`` names the row under way.

        Args:
            task: The shard they belong to.
            rows: Rows of its file, rising.
            stage: The last stage to run.
        """
        attempt = Attempt(task, trace=self._spec.layout.trace(task.shard.index), stop=None)
        clock = StageClock(self._watchdog, task.shard.index)
        try:
            for buffer in clock.measure_each("read", self._read(task.fragment, rows[0], rows[-1] + 1)):
                for row in rows:
                    offset = row - buffer.row_start
                    if 0 <= offset < buffer.batch.num_rows:
                        attempt.leave_trace(PROBE, np.array([row]))
                        alone = SourceBatch(buffer.batch.slice(offset, 1), row, buffer.error)
                        self._run_to(stage, alone, attempt, clock)
        finally:
            attempt.close()

    def canary(self) -> None:
        """Compute a harmless text: a process that dies of it does so through no fault of the source."""
        with self._watchdog.step("canary"):
            self._compute(self._heads.tokenize(self._heads.harmless()))

    def _run_to(self, stage: str, buffer: SourceBatch, attempt: Attempt, clock: StageClock) -> None:
        batch, tokenized = self._tokenize(buffer, attempt, clock)
        if stage == TOKENIZE:
            return
        predicted = self._predict(batch, tokenized, attempt, clock)
        if stage == DECODE:
            with clock.measure("decode"):
                self._assemble(predicted, attempt, self._tally())

    def _tally(self) -> Tally:
        return Tally([head.name for head in self._spec.heads])

    def _stager(self, attempt: Attempt) -> ParquetStager:
        spec, shard = self._spec, attempt.task.shard
        return ParquetStager(
            lambda part: spec.layout.staged(shard.index, attempt.attempt_id, part),
            partition_by=spec.partition_by,
            compression=spec.compression,
            compression_level=spec.compression_level,
            row_group_rows=spec.row_group_rows,
            footer={
                **spec.footer,
                "precision": self.precision,
                "shard_id": shard.shard_id,
                "attempt_id": attempt.attempt_id,
            },
        )

    def _predicted(self, attempt: Attempt, clock: StageClock) -> Generator[_Predicted, None, None]:
        shard = attempt.task.shard
        read = clock.measure_each("read", self._read(attempt.fragment, shard.row_start, shard.row_stop))
        with closing(Background(sort_buffers(read, target_rows=self._spec.sort_buffer_rows))) as buffers:
            tokenized = (self._tokenize(buffer, attempt, clock) for buffer in buffers)
            with (
                closing(Background(tokenized)) as waiting,
                closing(
                    Background(self._predict(buffer, tokens, attempt, clock) for buffer, tokens in waiting)
                ) as predicted,
            ):
                yield from predicted

    def _read(self, fragment: Fragment, row_start: int, row_stop: int) -> Iterator[SourceBatch]:
        return read_shard(
            self._spec.source_root,
            fragment,
            row_start,
            row_stop,
            schema=self._spec.source_schema,
            text_column=self._spec.text_column,
            batch_rows=self._spec.sort_buffer_rows,
            on_bad_rows="error-rows" if self._spec.error_rows else "fail",
            files=self._files,
        )

    def _tokenize(
        self, buffer: SourceBatch, attempt: Attempt, clock: StageClock
    ) -> tuple[SourceBatch, TokenizedBuffer]:
        with clock.measure("tokenize"):
            attempt.leave_trace(TOKENIZE, np.arange(buffer.batch.num_rows) + buffer.row_start)
            text = self._spec.text_column
            crashing = attempt.crashing_rows(buffer)
            hidden = pa.array([row in crashing for row in range(buffer.batch.num_rows)], pa.bool_())
            batch = run_hook("before", self._before, self._hide(buffer.batch, hidden), must_have=text)
            # Once more, for a hook may have put something in; and the row keeps its texts in the output.
            asked = self._hide(batch, hidden)
            tokenized = self._heads.tokenize(dict(zip(asked.schema.names, asked.columns, strict=True)))
            batch = self._hide(batch, hidden, original=buffer.batch)
            errors = dict.fromkeys(range(batch.num_rows), buffer.error) if buffer.error else {}
            errors |= {row: error or CRASH_MESSAGE for row, error in crashing.items()}
            texts = tokenized.texts.with_errors(errors)
            return SourceBatch(batch, buffer.row_start), TokenizedBuffer(texts, tokenized.questions)

    def _hide(
        self, batch: pa.RecordBatch, rows: pa.BooleanArray, *, original: pa.RecordBatch | None = None
    ) -> pa.RecordBatch:
        """Put nulls, or what was there originally, into some rows of every column that heads read."""
        for name in self._read_columns.intersection(batch.schema.names):
            batch = replace_rows(batch, name, rows, None if original is None else original.column(name))
        return batch

    def _predict(
        self, buffer: SourceBatch, tokenized: TokenizedBuffer, attempt: Attempt, clock: StageClock
    ) -> _Predicted:
        def note(rows: NDArray[np.int64]) -> None:
            clock.beat(PREDICT)  # of all shards that wait for the device, which takes one at a time
            attempt.leave_trace(PREDICT, rows + buffer.row_start)

        with self._watchdog.step(PREDICT, attempt.task.shard.index):
            outputs = self._compute(tokenized, note)
        clock.add("forward", sum(output.seconds for output in outputs))
        return _Predicted(buffer, tokenized, outputs)

    def _compute(self, tokenized: TokenizedBuffer, on_batch: BatchObserver | None = None) -> list[HeadOutput]:
        try:
            return self._heads.predict(tokenized, on_batch=on_batch)
        except RuntimeError as error:
            if not is_lost_device(error):
                raise
            lost = lost_device(error, self._heads.device)
            self._end_process(lost)
            raise lost from error

    def _assemble(self, item: _Predicted, attempt: Attempt, tally: Tally) -> pa.RecordBatch:
        num_rows = item.buffer.batch.num_rows
        source_rows = np.arange(item.buffer.row_start, item.buffer.row_start + num_rows)
        if self._after is not None:
            attempt.leave_trace(DECODE, source_rows)
        annotated = self._heads.decode(item.tokenized, item.outputs)
        fields = [self._spec.source_schema.field(name) for name in self._spec.passthrough]
        passthrough = [passthrough_column(item.buffer.batch, field) for field in fields]
        place = row_array(annotated, source_file=attempt.fragment.path, source_rows=source_rows)
        batch = pa.RecordBatch.from_arrays(
            [*passthrough, *annotated.columns, place],
            schema=pa.schema([*fields, *self._heads.fields, pa.field(schema.ROW, schema.ROW_TYPE, nullable=False)]),
        )
        batch = run_hook("after", self._after, batch, must_have=schema.ROW)
        computed = sum(output.tokens_computed for output in item.outputs)
        tally.add(annotated, batch, computed=computed, repeated=item.tokenized.repeated)
        return batch
