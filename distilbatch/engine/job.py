"""A config resolved against the machine: which checkpoints, which identity, which run key, which paths."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from distilbatch import __version__
from distilbatch.commit.records import PlanRecord
from distilbatch.config import Config, render
from distilbatch.engine.checkpoints import check_head
from distilbatch.engine.resolution import resolve_heads
from distilbatch.engine.spec import DeviceSpec, HeadSpec, WorkerSpec
from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.fingerprint import canonical_json, fingerprint, fingerprint_checkpoint
from distilbatch.layout import RunLayout, SinkLayout, published_name
from distilbatch.oserrors import resolved
from distilbatch.pipeline import load_pipeline, pipeline_fingerprint
from distilbatch.source.paths import is_listed

# Raised by hand when tokenization, truncation or decoding changes what comes out for the same settings.
PROCESSING_VERSION = 2
UNDATED_WINDOW = "once"


@dataclass(frozen=True, slots=True)
class Job:
    """What a run does, before anything of its source is known.

    Args:
        config: The config with its templates filled in.
        window: The logical window: a date, or ``once``; a limited run adds ``-limitN``.
        limit: Most rows, or None.
        heads: The annotations.
        model_fingerprints: Identity of each head's checkpoint, by output column.
        semantic: The settings that change results.
        dated_source: Whether each window reads a folder of its own; equal paths in two of them are two files.
    """

    config: Config
    window: str
    limit: int | None
    heads: tuple[HeadSpec, ...]
    model_fingerprints: dict[str, str]
    semantic: dict[str, Any]
    dated_source: bool = False

    @property
    def name(self) -> str:
        """The job's name."""
        return self.config.job.name

    @property
    def run_key(self) -> str:
        """Job and logical window."""
        return f"{self.name}/{self.window}"

    @property
    def source_root(self) -> Path:
        """The source's folder or file."""
        return Path(self.config.source.path)

    @property
    def model_sources(self) -> dict[str, str]:
        """By output column, hub id and commit of the models that come from the hub, as ``org/name@commit``."""
        return {head.name: str(head.hub) for head in self.heads if head.hub is not None}

    @property
    def sink(self) -> SinkLayout:
        """Paths of the sink."""
        return SinkLayout(Path(self.config.sink.path))

    @property
    def layout(self) -> RunLayout:
        """Paths of the run."""
        return self.sink.run(self.name, self.window)

    @property
    def columns(self) -> tuple[str, ...]:
        """Source columns besides the main text: what is copied to the output and what heads read."""
        read = [name for head in self.heads for _, name in head.columns]
        text = self.config.source.columns.text
        return tuple(name for name in dict.fromkeys([*self.config.sink.passthrough, *read]) if name != text)

    @property
    def device(self) -> DeviceSpec:
        """Where and how to compute, as the config says."""
        engine = self.config.engine
        return DeviceSpec(
            device=engine.device,
            precision=engine.precision,
            max_batch_tokens=_number(engine.max_batch_tokens),
            threads=_number(engine.threads),
            compiled=engine.compile,
        )


def resolve_job(config: Config, *, day: date | None = None, limit: int | None = None) -> Job:
    """Check everything that can be checked before the source is read.

    Args:
        config: The config.
        day: The date of the run; None for a run without one.
        limit: Most rows to label, for a sample; None for all.

    Raises:
        ConfigError: Templates, pipeline or annotations are wrong, the source would hold what the sink publishes, or
            ``limit`` is below 1.
        CheckpointError: A checkpoint is missing or not a DistilBERT sequence classifier.
    """
    if limit is not None and limit < 1:
        raise ConfigError("--limit", expected="at least 1", found=str(limit))
    window = UNDATED_WINDOW if day is None else day.isoformat()
    if limit is not None:
        window = f"{window}-limit{limit}"
    dated_source = "{{" in config.source.path
    config = render(config, day=day, window=window)
    _refuse_own_output(config)
    pipeline = load_pipeline(Path(config.pipeline)) if config.pipeline else None
    annotations = config.annotations(pipeline)
    hooked = pipeline is not None and (pipeline.before or pipeline.after)
    hooks = pipeline_fingerprint(Path(config.pipeline)) if hooked and config.pipeline else None
    semantic = {"processing": PROCESSING_VERSION, **config.semantic(annotations, hooks=hooks)}
    heads, digests = _with_fingerprints(resolve_heads(annotations, config.source.columns.text))
    return Job(config, window, limit, heads, digests, semantic, dated_source)


def _refuse_own_output(config: Config) -> None:
    """A run that finds its own output in its source would label it again every night."""
    root, layout = resolved(Path(config.source.path)), SinkLayout(Path(config.sink.path))
    if os.path.isfile(root):
        return
    partition = tuple((name, "value") for name in config.sink.partition_by)
    name = RunLayout(layout.root, "", "").published(partition, published_name(0, "0" * 12, 0, 1))
    data = resolved(layout.data)
    published = data / name.relative_to(layout.data)
    inside = published.is_relative_to(root) and is_listed(published.relative_to(root).as_posix(), config.source.glob)
    if inside or root.is_relative_to(data):
        raise ConfigError(
            "sink.path: the source would hold what this job publishes, and label it again",
            expected=f"a source without {data}",
            found=f"source.path {config.source.path!r} with the glob {config.source.glob!r}",
            remedy="write to a folder beside the source, or set source.glob to leave the output out",
        )


def new_plan(job: Job, **content: Any) -> PlanRecord:  # noqa: ANN401 - the remaining fields of the record
    """A plan record with the job's identity filled in."""
    return PlanRecord(
        job=job.name,
        window=job.window,
        source_root=str(job.source_root),
        source_glob=job.config.source.glob,
        model_fingerprints=job.model_fingerprints,
        model_sources=job.model_sources,
        semantic=job.semantic,
        limit=job.limit,
        version=__version__,
        **content,
    )


def model_fingerprint(job: Job) -> str:
    """One digest over the checkpoints of all heads."""
    return fingerprint(job.model_fingerprints)


def worker_spec(job: Job, plan: PlanRecord, *, precision: str | None = None) -> WorkerSpec:
    """Turn a config into a worker's plain arguments.

    Args:
        job: The job.
        plan: Its plan.
        precision: What to compute in, where it is settled; None takes what the config says.
    """
    source, sink, engine = job.config.source, job.config.sink, job.config.engine
    asked = job.device.precision
    return WorkerSpec(
        source_root=job.source_root.absolute(),
        source_schema=plan.schema,
        text_column=source.columns.text,
        max_doc_bytes=source.max_doc_bytes,
        error_rows=source.on_bad_file == "quarantine",
        passthrough=sink.passthrough,
        heads=tuple(replace(head, model=head.model.absolute()) for head in job.heads),
        pipeline=Path(job.config.pipeline).absolute() if job.config.pipeline else None,
        device=replace(job.device, precision=precision or asked, settled=asked == "auto"),
        sort_buffer_rows=engine.sort_buffer_rows,
        layout=replace(job.layout, root=job.layout.root.absolute()),
        partition_by=sink.partition_by,
        compression=sink.compression,
        compression_level=sink.compression_level,
        row_group_rows=sink.row_group_rows,
        footer={
            "version": __version__,
            "run_key": plan.run_key,
            "plan_id": plan.plan_id,
            "model_fingerprint": model_fingerprint(job),
            **({"model_sources": canonical_json(plan.model_sources).decode()} if plan.model_sources else {}),
        },
        hang_timeout_s=engine.hang_timeout_s or None,
    )


def _number(value: int | str) -> int | None:
    return value if isinstance(value, int) else None


def _with_fingerprints(heads: tuple[HeadSpec, ...]) -> tuple[tuple[HeadSpec, ...], dict[str, str]]:
    digests: dict[Path, str] = {}
    for head in heads:
        check_head(head)
        if head.model not in digests:
            try:
                digests[head.model] = fingerprint_checkpoint(head.model)
            except OSError as error:
                raise CheckpointError(f"{head.model}: cannot be read", found=str(error)) from error
    marked = tuple(replace(head, fingerprint=digests[head.model]) for head in heads)
    return marked, {head.name: digests[head.model] for head in heads}
