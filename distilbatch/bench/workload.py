"""What every contestant of a benchmark is given: plain values that cross a pipe as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from typing_extensions import Self

TEXT_CLASSIFICATION = "text-classification"
FEATURE_EXTRACTION = "feature-extraction"


@dataclass(frozen=True, slots=True)
class Workload:
    """Documents, a model and the share of the machine that may be used.

    Args:
        config: The job as a config, over ``documents``.
        documents: Parquet file with the documents; every one of them gives tokens.
        text_column: Its column with the texts.
        num_documents: Its rows.
        model: Checkpoint folder of the first annotation, which outputs are compared on.
        task: Its task.
        pooling: ``cls`` or ``mean`` for embeddings, empty for logits.
        max_length: Most tokens of a document.
        max_batch_tokens: Token budget of peers that sort by length; padding counts.
        threads: CPU threads.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        scratch: Folder for exported models and sinks.
    """

    config: dict[str, Any]
    documents: Path
    text_column: str
    num_documents: int
    model: Path
    task: str
    pooling: str
    max_length: int
    max_batch_tokens: int
    threads: int
    device: str
    scratch: Path

    def to_dict(self) -> dict[str, Any]:
        """The workload as JSON values."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        paths = {field.name for field in fields(cls) if field.type == "Path"}
        arguments: dict[str, Any] = {name: Path(value) if name in paths else value for name, value in values.items()}
        return cls(**arguments)
