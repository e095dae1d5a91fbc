"""A job that runs in a fraction of a second: a source of known texts, a random two-layer checkpoint, a local engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.modeling import DistilBertForSequenceClassification

WORDS = ("red", "green", "blue", "one", "two", "three", "fish", "bird")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
MAX_TOKENS = 16


def write_checkpoint(folder: Path, *, seed: int = 1) -> Path:
    """Write a sequence classifier of two layers with its vocabulary."""
    torch.manual_seed(seed)
    config = DistilBertConfig(
        vocab_size=len(VOCABULARY),
        max_position_embeddings=MAX_TOKENS,
        n_layers=2,
        n_heads=2,
        dim=32,
        hidden_dim=48,
        initializer_range=0.3,
        id2label={0: "no", 1: "yes"},
    )
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


def write_source(path: Path, num_rows: int, *, first: int = 0, words: int = 3) -> None:
    """Write rows with an id, a group and a text of ``words`` words; every tenth text is null."""
    numbers = range(first, first + num_rows)
    texts = [None if n % 10 == 9 else " ".join(WORDS[(n + k) % len(WORDS)] for k in range(words)) for n in numbers]
    columns = {"id": list(numbers), "group": ["even" if n % 2 == 0 else "odd" for n in numbers], "text": texts}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=20)


def job_config(folder: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """A config over ``folder``'s ``source``, ``model`` and ``out``; ``sections`` add to it key by key."""
    config: dict[str, Any] = {
        "job": {"name": "tiny"},
        "source": {"path": str(folder / "source")},
        "annotate": [{"name": "answer", "task": "text-classification", "model": str(folder / "model")}],
        "sink": {"path": str(folder / "out"), "passthrough": ["id", "group"]},
        "engine": {"type": "local", "device": "cpu", "shard_rows": 20, "threads": 1},
    }
    for name, section in sections.items():
        config[name] = config.get(name, {}) | section
    return config


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
