"""Everything that is fixed before the race: the job, its model, its documents, and what outputs can be compared on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distilbatch.bench.documents import (
    MAX_CANDIDATES,
    SHIPPED,
    Candidates,
    deal,
    mix_documents,
    read_candidates,
    stratified,
)
from distilbatch.bench.models import BASE, WRITERS
from distilbatch.bench.options import BenchOptions
from distilbatch.bench.workload import FEATURE_EXTRACTION, TEXT_CLASSIFICATION, Workload
from distilbatch.config import Config, load_config
from distilbatch.engine.job import Job, resolve_job
from distilbatch.engine.preparation import suitable_max_length
from distilbatch.engine.spec import HeadSpec
from distilbatch.errors import ConfigError
from distilbatch.inference.budget import MAX_CUDA_BATCH_TOKENS
from distilbatch.inference.precision import resolve_device
from distilbatch.model.configuration import CONFIG_FILE, DistilBertConfig
from distilbatch.tokenization import DocumentTokenizer

_CPU_BATCH_TOKENS = 2048  # for every library measured, fewer or more are slower
_FEW = 256  # documents that stand for the mix before their number is known


@dataclass
class Prepared:
    """A benchmark's job before its documents are chosen.

    Args:
        job: The job over its own source, with the first annotation's model.
        device: Where models run.
        threads: CPU threads.
        scratch: Folder of the benchmark.
        seed: Of the documents.
        model_name: Of the model, for the report.
        source_name: Of the documents, for the report.
        candidates: The documents of the source, or a sample of the mix.
        mixed: Whether documents are the mix.
    """

    job: Job
    device: str
    threads: int
    scratch: Path
    seed: int
    model_name: str
    source_name: str
    candidates: Candidates
    mixed: bool
    repeats: int = field(init=False)
    documents: Path = field(init=False)

    def __post_init__(self) -> None:
        self.repeats = self.candidates.repeats
        self.documents = self.scratch / "documents.parquet"

    @property
    def head(self) -> HeadSpec:
        """The annotation that outputs are compared on."""
        return self.job.heads[0]

    @property
    def model_config(self) -> DistilBertConfig:
        """Sizes of its model."""
        return DistilBertConfig.from_file(self.head.model / CONFIG_FILE)

    @property
    def max_length(self) -> int:
        """Most tokens of its documents."""
        return _max_length(self.head)

    @property
    def tokenizer(self) -> DocumentTokenizer:
        """Its tokenizer."""
        return DocumentTokenizer.from_folder(self.head.model, max_length=self.max_length)

    @property
    def first_only(self) -> bool:
        """Whether all heads read the first token's state only."""
        return all(_reads_first_token(head) for head in self.job.heads)

    @property
    def why_not_comparable(self) -> str:
        """Why peers are left out; empty when they are not."""
        head = self.head
        if self.job.config.pipeline is not None:
            return "peers know no pipeline files"
        if len(self.job.heads) > 1:
            return "peers are compared on one annotation"
        if head.task not in {TEXT_CLASSIFICATION, FEATURE_EXTRACTION}:
            return f"peers are compared on {TEXT_CLASSIFICATION} and {FEATURE_EXTRACTION}"
        if head.stride is not None or len(head.columns) > 1:
            return "peers are compared on single texts without text windows"
        if head.task == FEATURE_EXTRACTION and head.options["pooling"] not in {"cls", "mean"}:
            return "peers are compared on cls and mean pooling"
        return ""

    @property
    def comparable(self) -> bool:
        """Whether peers can compute the same."""
        return not self.why_not_comparable

    def write_documents(self, count: int) -> NDArray[np.int64]:
        """Choose and write the documents; of the mix, those that differ: ``repeats`` says how many did not.

        Returns:
            ``(N,)`` their lengths in tokens.
        """
        if self.mixed:
            found = _mix(self.tokenizer, self.job.config.source.columns.text, count, seed=self.seed)
            self.repeats = found.repeats
            pq.write_table(found.table, self.documents)
            return found.lengths
        chosen = stratified(self.candidates.lengths, count, seed=self.seed)
        pq.write_table(self.candidates.table.take(pa.array(chosen)), self.documents)
        return self.candidates.lengths[chosen]

    def workload(self, num_documents: int) -> Workload:
        """The workload over the documents as written."""
        return self._workload(self.documents, num_documents, self.threads, self.scratch)

    def deal(self, workload: Workload, lengths: NDArray[np.int64], hands: int) -> list[Workload]:
        """Equal shares of the documents, for processes of one thread each."""
        table = pq.read_table(workload.documents)
        shares = []
        for hand, chosen in enumerate(deal(lengths, hands)):
            scratch = self.scratch / f"part-{hand}"
            scratch.mkdir(exist_ok=True)
            pq.write_table(table.take(pa.array(chosen)), scratch / self.documents.name)
            shares.append(self._workload(scratch / self.documents.name, len(chosen), 1, scratch))
        return shares

    def _workload(self, documents: Path, num_documents: int, threads: int, scratch: Path) -> Workload:
        config = self.job.config
        source = config.source.model_copy(
            update={"path": str(documents), "partitioning": "none", "glob": "**/*.parquet"}
        )
        sink = config.sink.model_copy(update={"path": str(scratch / "sink")})
        engine = config.engine.model_copy(update={"type": "local"})
        config = config.model_copy(update={"source": source, "sink": sink, "engine": engine})
        head = self.head
        return Workload(
            config=plain_config(config),
            documents=documents,
            text_column=config.source.columns.text,
            num_documents=num_documents,
            model=head.model,
            task=head.task,
            pooling=str(head.options["pooling"]) if head.task == FEATURE_EXTRACTION else "",
            max_length=self.max_length,
            max_batch_tokens=peer_batch_tokens(self.device, config.engine.max_batch_tokens),
            threads=threads,
            device=self.device,
            scratch=scratch,
        )


def job_config(options: BenchOptions, scratch: Path) -> tuple[Config, str]:
    """The job to measure, and what to call its model; empty for the model's own folder.

    Raises:
        ConfigError: Options exclude each other.
    """
    config, model_name = options.config, ""
    if config is None:
        model, model_name = _model(options, scratch)
        config = _default_config(options, model, scratch)
    elif options.model is not None:
        raise ConfigError("--model", expected="no config, or models.NAME set in it", found="both")
    elif options.data is not None:
        columns = config.source.columns.model_copy(update={"text": options.text_column})
        source = config.source.model_copy(update={"path": str(options.data), "columns": columns})
        config = config.model_copy(update={"source": source})
    return config, model_name


def prepare(options: BenchOptions, scratch: Path, *, threads: int) -> Prepared:
    """Resolve options: which job, which model, which candidates for documents.

    Raises:
        ConfigError: Options exclude each other.
        DistilbatchError: The job, its model or its source is wrong.
    """
    config, model_name = job_config(options, scratch)
    job = resolve_job(config, limit=MAX_CANDIDATES)
    device = str(resolve_device(config.engine.device if options.device == "auto" else options.device))
    mixed = options.config is None and options.data is None
    source_name = "shipped package descriptions, joined" if mixed else config.source.path
    head = job.heads[0]
    tokenizer = DocumentTokenizer.from_folder(head.model, max_length=_max_length(head))
    candidates = _mix(tokenizer, "text", _FEW, seed=options.seed) if mixed else read_candidates(job, tokenizer)
    name = model_name or str(head.model)
    return Prepared(job, device, threads, scratch, options.seed, name, source_name, candidates, mixed)


def _max_length(head: HeadSpec) -> int:
    return suitable_max_length(head, DistilBertConfig.from_file(head.model / CONFIG_FILE).max_position_embeddings)


def _mix(tokenizer: DocumentTokenizer, column: str, count: int, *, seed: int) -> Candidates:
    texts = mix_documents(tokenizer, count, seed=seed)
    return Candidates.of(pa.table({column: texts}), texts, tokenizer)


def peer_batch_tokens(device: str, ours: int | str) -> int:
    """The token budget of peers: the one that suits a CPU; on a GPU what ours is, or may grow to.

    Args:
        device: ``cpu`` or a CUDA device.
        ours: What the job's engine sets, or ``auto``.
    """
    if device == "cpu":
        return _CPU_BATCH_TOKENS
    return MAX_CUDA_BATCH_TOKENS if isinstance(ours, str) else ours


def _reads_first_token(head: HeadSpec) -> bool:
    if head.task == FEATURE_EXTRACTION:
        return bool(head.options["pooling"] == "cls")
    return head.task in {TEXT_CLASSIFICATION, "multiple-choice", "zero-shot-classification"}


def plain_config(config: Config) -> dict[str, Any]:
    """A config as a mapping that loads to the same: what is not set is left out."""
    values = config.model_dump(mode="json", exclude_none=True)
    if config.pipeline is not None:
        values.pop("annotate", None)
    return values


def _model(options: BenchOptions, scratch: Path) -> tuple[Path, str]:
    """The checkpoint folder and what to call it."""
    name = options.model or BASE
    if name not in WRITERS:
        return Path(name), name
    return scratch / "model", WRITERS[name](scratch / "model", seed=options.seed)


def _default_config(options: BenchOptions, model: Path, scratch: Path) -> Config:
    return load_config(
        {
            "job": {"name": "bench"},
            "source": {
                "path": str(options.data or SHIPPED),
                "columns": {"text": options.text_column},
            },
            "annotate": [{"name": "label", "task": TEXT_CLASSIFICATION, "model": str(model)}],
            "sink": {"path": str(scratch / "sink")},
        }
    )
