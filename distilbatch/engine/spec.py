"""Plain descriptions that cross process borders: what a worker is, what it is asked to do, what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from typing_extensions import override

from distilbatch.errors import DistilbatchError
from distilbatch.layout import RunLayout
from distilbatch.records import Fragment, Shard, ShardResult

DEFAULT_MAX_LENGTH = 512  # of a document, in tokens
_MOST_BYTES_PER_TOKEN = 8  # about twice the mean of English; tokens of other scripts are shorter
QUESTION_ANSWERING = "question-answering"  # reads all of a text in windows, also without a stride


@dataclass(frozen=True, slots=True)
class HubCommit:
    """Where the files of a hub id come from: the same files for whoever fetches them, and whenever.

    Args:
        repo_id: The hub id.
        commit: 40 hex digits.
    """

    repo_id: str
    commit: str

    @override
    def __str__(self) -> str:
        return f"{self.repo_id}@{self.commit}"


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """One annotation: a checkpoint and what to make of its output.

    Args:
        name: The output column.
        task: One of :data:`distilbatch.tasks.catalog.TASK_HEADS`.
        model: The checkpoint folder; of a hub id, the snapshot of its commit on the machine that resolved it.
        columns: Source columns by role, such as ``(("text", "summary"),)``; the first is the main text, which decides
            whether a row is null or empty. The role ``choices`` may name one column of lists, or
            several columns.
        max_length: Most tokens of a document; None takes what the model's positions and its tokenizer's
            ``model_max_length`` allow, at most 512.
        stride: Tokens that neighbouring windows of a long main text share; None reads its beginning only.
        options: The task's own options.
        hub: What to fetch where ``model`` is not there; None for a folder of the user's.
        fingerprint: Identity of the planned checkpoint, which a hub's files are checked against by each worker; None
            where nothing was planned.
    """

    name: str
    task: str
    model: Path
    columns: tuple[tuple[str, str], ...]
    max_length: int | None = None
    stride: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    hub: HubCommit | None = None
    fingerprint: str | None = None


def max_row_bytes(heads: Sequence[HeadSpec], *, max_doc_bytes: int) -> int:
    """Bytes of a main text that make work, at most: what is beyond the tokens that heads read is cut off.

    Args:
        heads: The annotations.
        max_doc_bytes: Longer documents are cut in any case.
    """
    if any(head.stride is not None or head.task == QUESTION_ANSWERING for head in heads):
        return max_doc_bytes
    most_tokens = max((head.max_length or DEFAULT_MAX_LENGTH for head in heads), default=DEFAULT_MAX_LENGTH)
    return min(max_doc_bytes, most_tokens * _MOST_BYTES_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """Where a worker computes and how.

    Args:
        device: auto, cpu, cuda or cuda:N.
        precision: auto, float32, bfloat16, float16 or int8.
        max_batch_tokens: Token budget of a forward call; None suits the device.
        threads: CPU threads; None leaves torch's choice.
        compiled: Whether torch may compile layers; on CUDA devices only.
        settled: Whether the precision was chosen for the user: a device without it then computes in float32.
    """

    device: str = "auto"
    precision: str = "auto"
    max_batch_tokens: int | None = None
    threads: int | None = None
    compiled: bool = False
    settled: bool = False


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything a worker needs, in plain values that any process can rebuild it from.

    Args:
        source_root: The source's folder or file.
        source_schema: Columns to read with their unified types; the text column among them.
        text_column: Name of the text column.
        max_doc_bytes: Longer documents are cut.
        error_rows: Whether an unreadable row group becomes error rows (else it fails its shard).
        passthrough: Source columns copied to the output.
        heads: The annotations, in output order.
        pipeline: Python file with hooks, or None.
        device: Where and how to compute.
        sort_buffer_rows: Documents sorted together.
        layout: Paths of the run.
        partition_by: Passthrough columns that become folders.
        compression: Parquet codec.
        compression_level: Its level, or None.
        row_group_rows: Most rows of an output row group.
        footer: Lineage written to every file's footer.
        hang_timeout_s: How long nothing may come of a step of the work; None for ever.
    """

    source_root: Path
    source_schema: pa.Schema
    text_column: str
    max_doc_bytes: int
    error_rows: bool
    passthrough: tuple[str, ...]
    heads: tuple[HeadSpec, ...]
    pipeline: Path | None
    device: DeviceSpec
    sort_buffer_rows: int
    layout: RunLayout
    partition_by: tuple[str, ...]
    compression: str
    compression_level: int | None
    row_group_rows: int
    footer: dict[str, str]
    hang_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class ShardTask:
    """A shard to process.

    Args:
        shard: The rows.
        fragment: The file they are in.
        crashing_rows: Rows known to kill the process that computes them, or to hang in it; they become error rows
            with these messages.
    """

    shard: Shard
    fragment: Fragment
    crashing_rows: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShardFailure:
    """A shard that could not be finished, and why; the run goes on with the others."""

    index: int
    error: DistilbatchError


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """Something worth a log line that is not a shard: a worker started, died or was replaced.

    Args:
        kind: ``started``, ``died`` or ``crashing_rows``.
        message: For people.
        shard: The shard concerned, if any.
        rows: The rows concerned, if any.
        error: The message of these rows, which become error rows.
    """

    kind: str
    message: str
    shard: int | None = None
    rows: tuple[int, ...] = field(default=())
    error: str = ""


Outcome = ShardResult | ShardFailure | PoolEvent
