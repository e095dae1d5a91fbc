"""Tiny checkpoints, sources and worker specs for the tests of the engine, and an independent reader of the output."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distilbatch.engine.spec import DeviceSpec, HeadSpec, WorkerSpec
from distilbatch.layout import RunLayout
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.modeling import DistilBertForSequenceClassification, PreTrainedModel
from distilbatch.source.listing import Listing, list_fragments

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = tuple(f"{a}{b}" for a in ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti") for b in ("da", "go", "pi", "zu"))
LABELS = ("red", "green", "blue")
MAX_POSITIONS = 32
GLOB = "**/*.parquet"


def write_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    labels: Sequence[str] = LABELS,
    kind: type[PreTrainedModel] = DistilBertForSequenceClassification,
) -> Path:
    """A model of 2 layers and 32 dimensions that knows ``WORDS``, with its vocabulary."""
    torch.manual_seed(seed)
    config = DistilBertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        max_position_embeddings=MAX_POSITIONS,
        n_layers=2,
        n_heads=2,
        dim=32,
        hidden_dim=64,
        initializer_range=0.4,
        id2label=dict(enumerate(labels)),
    )
    kind(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n", encoding="utf-8")
    return folder


def random_texts(count: int, *, seed: int = 0, most_words: int = 40) -> list[str]:
    """Documents of 1 to ``most_words`` known words; the longer ones are over ``MAX_POSITIONS``."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, most_words))) for _ in range(count)]


def write_source(
    folder: Path, texts: Sequence[str | bytes | None], *, files: int = 1, group_rows: int = 100, **columns: Any
) -> Path:
    """A folder of Parquet files with the columns ``id`` (from 0 on) and ``text``, and what ``columns`` adds."""
    folder.mkdir(parents=True, exist_ok=True)
    as_bytes = any(isinstance(text, bytes) for text in texts)
    values = [text.encode() if as_bytes and isinstance(text, str) else text for text in texts]
    table = pa.table({"id": pa.array(range(len(texts)), pa.int64()), "text": values, **columns})
    size = -(-len(texts) // files)
    for number in range(files):
        part = table.slice(number * size, size)
        pq.write_table(part, folder / f"part-{number}.parquet", row_group_size=group_rows)
    return folder


def list_texts(source: Path, *, columns: Sequence[str] = ("id",)) -> Listing:
    """The source as the planner sees it."""
    return list_fragments(
        source, text_column="text", columns=columns, partitioning="hive", glob=GLOB, on_bad_file="fail"
    )


def topic_spec(model: Path, *, name: str = "topic", **changes: Any) -> HeadSpec:
    """A text classification of the column ``text``; ``changes`` replaces fields."""
    values: dict[str, Any] = {"task": "text-classification", "columns": (("text", "text"),)}
    return HeadSpec(name=name, model=model, **{**values, **changes})


def worker_spec(listing: Listing, *, source: Path, sink: Path, model: Path, **changes: Any) -> WorkerSpec:
    """What a worker needs for one head named ``topic``, of a run that has a plan; ``changes`` replaces fields."""
    values: dict[str, Any] = {
        "source_root": source,
        "source_schema": listing.schema,
        "text_column": "text",
        "max_doc_bytes": 4096,
        "error_rows": False,
        "passthrough": ("id",),
        "heads": (topic_spec(model),),
        "pipeline": None,
        "device": DeviceSpec(device="cpu", threads=1, max_batch_tokens=256),
        "sort_buffer_rows": 64,
        "layout": RunLayout(sink, "job", "once"),
        "partition_by": (),
        "compression": "zstd",
        "compression_level": 1,
        "row_group_rows": 1000,
        "footer": {"run_key": "job/once"},
    }
    spec = WorkerSpec(**{**values, **changes})
    spec.layout.control.mkdir(parents=True, exist_ok=True)
    spec.layout.plan.touch()
    return spec


def config_of(source: Path, sink: Path, model: Path, **engine: Any) -> dict[str, Any]:
    """A config for ``distilbatch.run``: one head named ``topic``, ``id`` passed through; ``engine`` sets its keys."""
    return {
        "source": {"path": str(source)},
        "annotate": [{"name": "topic", "task": "text-classification", "model": str(model)}],
        "sink": {"path": str(sink), "passthrough": ["id"]},
        "engine": {"device": "cpu", "threads": 1, "sort_buffer_rows": 64, **engine},
    }


def query(sql: str, *files: Path | str) -> list[tuple[Any, ...]]:
    """Ask DuckDB, which shares no code with us; ``?`` stands for the next of ``files``."""
    with duckdb.connect() as connection:
        return connection.execute(sql, [str(file) for file in files]).fetchall()


def labelled(sink: Path) -> list[tuple[Any, ...]]:
    """``(id, status, error, label, score)`` of every published row, by id."""
    return query(
        "SELECT id, _row.status, _row.error, topic.label, topic.score FROM read_parquet(?) ORDER BY id",
        sink / "data" / "**" / "*.parquet",
    )


def assert_exact(sink: Path, source: Path) -> None:
    """Every row of the source is published once, at the place it came from."""
    expected = query("SELECT id, count(*) FROM read_parquet(?) GROUP BY id ORDER BY id", source / "**" / "*.parquet")
    found = query(
        "SELECT id, count(*) FROM read_parquet(?) GROUP BY id ORDER BY id", sink / "data" / "**" / "*.parquet"
    )
    assert found == expected
    places = query(
        "SELECT count(*), count(DISTINCT (_row.source_file, _row.source_row)) FROM read_parquet(?)",
        sink / "data" / "**" / "*.parquet",
    )
    assert places == [(len(expected), len(expected))]


def string_array(values: Sequence[bytes | None]) -> pa.Array:
    """A string column that holds these bytes, valid UTF-8 or not, as a foreign writer may leave it in a file."""
    array = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(array), array.buffers())
