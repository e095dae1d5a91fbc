"""Where the time of a job goes: each stage by itself, one after the other, and the forward by kind of operation."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from distilbatch.commit.records import PlanRecord
from distilbatch.engine.annotated import AnnotatedBuffer, TokenizedBuffer, row_array
from distilbatch.engine.heads import Heads
from distilbatch.engine.spec import WorkerSpec
from distilbatch.engine.stages import StageClock
from distilbatch.inference.packing import gather, pack
from distilbatch.sink.parquet import ParquetStager
from distilbatch.source.reader import read_shard

STAGES = "stages"
"""Scope of a pass that times the stages."""
LINEAR, ATTENTION, REST = "linear", "attention", "rest"
# By what torch calls the operation that holds a kernel's time.
_KINDS = {
    LINEAR: re.compile(
        r"mkldnn::_linear_pointwise|mkldnn::_convolution|aten::(linear|addmm|mm|mkldnn_linear|_addmm_activation|_int_mm)$"
        r"|aten::_scaled_mm|onednn::qlinear|quantized::linear|mkl::_mkl_linear"
    ),
    ATTENTION: re.compile(
        r"aten::\w*scaled_dot_product|aten::\w*flash_attention|aten::_efficient_attention|aten::(bmm|baddbmm)$"
        r"|aten::\w*softmax"
    ),
}


def read_buffers(spec: WorkerSpec, plan: PlanRecord, *, rows: int) -> Iterator[dict[str, pa.Array]]:
    """Read a plan's rows as a worker does: the columns by name of one sort buffer after the other."""
    for shard in plan.shards:
        for item in read_shard(
            spec.source_root,
            plan.fragments[shard.fragment],
            shard.row_start,
            shard.row_stop,
            schema=spec.source_schema,
            text_column=spec.text_column,
            batch_rows=rows,
        ):
            yield dict(zip(item.batch.schema.names, item.batch.columns, strict=True))


def measure_stages(heads: Heads, spec: WorkerSpec, plan: PlanRecord) -> Mapping[str, Any]:
    """Time each stage alone over the whole plan; in a job they overlap.

    Returns:
        ``stages_s`` by name, and ``forward_s`` by kind of operation; the latter adds up to the forward stage.
    """
    clock = StageClock()
    with clock.measure("read"):
        columns = list(read_buffers(spec, plan, rows=spec.sort_buffer_rows))
    with clock.measure("tokenize"):
        buffers = [heads.tokenize(batch) for batch in columns]
    with clock.measure("pack"):
        _pack(heads, buffers)
    with ThreadPoolExecutor(1) as pool:  # as in a job
        with clock.measure("forward"):
            outputs = list(pool.map(heads.predict, buffers))
        shares = pool.submit(_profile, heads, buffers).result()
    with clock.measure("decode"):
        annotated = [heads.decode(buffer, output) for buffer, output in zip(buffers, outputs, strict=True)]
    with clock.measure("write"):
        _write(spec, heads, columns, annotated)
    forward = clock.seconds["forward"] = max(0.0, clock.seconds["forward"] - clock.seconds["pack"])
    return {"stages_s": dict(clock.seconds), "forward_s": {kind: share * forward for kind, share in shares.items()}}


def kind_of(operation: str) -> str:
    """``linear``, ``attention`` or ``rest``, by an operation's name."""
    return next((kind for kind, pattern in _KINDS.items() if pattern.match(operation)), REST)


def _pack(heads: Heads, buffers: Sequence[TokenizedBuffer]) -> None:
    for buffer in buffers:
        for question in buffer.questions:
            tokens = question.distinct.tokens
            for documents in pack(tokens.lengths, max_batch_tokens=heads.max_batch_tokens):
                gather(tokens, documents)


def _profile(heads: Heads, buffers: Sequence[TokenizedBuffer]) -> dict[str, float]:
    """The share of each kind of operation in a forward; what is outside of operations is Python, and rest."""
    cuda = heads.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if cuda else [])]
    # In turn: the profiler sees its own thread only.
    with heads.in_turn(), torch.profiler.profile(activities=activities) as profiler:
        start = time.perf_counter()  # inside: the profiler itself takes seconds to start and to stop
        for buffer in buffers:
            heads.predict(buffer)
        wall_us = (time.perf_counter() - start) * 1e6
    seconds = dict.fromkeys((LINEAR, ATTENTION, REST), 0.0)
    for event in profiler.key_averages():
        # On a GPU a kernel's time is also with the operation that launched it, which is the one that has a name.
        if event.device_type.name == "CPU":
            spent = event.self_device_time_total if cuda else event.self_cpu_time_total
            seconds[kind_of(event.key)] += float(spent)
    total = max(wall_us, sum(seconds.values()))
    seconds[REST] += total - sum(seconds.values())
    return {kind: spent / total for kind, spent in seconds.items()}


def _write(
    spec: WorkerSpec, heads: Heads, columns: Sequence[dict[str, pa.Array]], annotated: Sequence[AnnotatedBuffer]
) -> None:
    with TemporaryDirectory(prefix="distilbatch-bench-") as folder:
        stager = ParquetStager(
            lambda part: Path(folder) / f"{part}.parquet",
            partition_by=spec.partition_by,
            compression=spec.compression,
            compression_level=spec.compression_level,
            row_group_rows=spec.row_group_rows,
            footer=spec.footer,
        )
        with stager:
            for batch, result in zip(columns, annotated, strict=True):
                place = row_array(result, source_file="", source_rows=np.arange(len(result.statuses)))
                names = [*spec.passthrough, *(field.name for field in heads.fields), "_row"]
                arrays = [*(batch[name] for name in spec.passthrough), *result.columns, place]
                stager.write(pa.RecordBatch.from_arrays(arrays, names=names))
            stager.close()
