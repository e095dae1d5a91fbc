"""The documents of a benchmark: drawn from a table by length, or the shipped ones joined to a web-like mix of lengths.

The same table, count and seed give the same documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distilbatch.engine.job import Job
from distilbatch.engine.planning import build_plan, list_source
from distilbatch.errors import DataError
from distilbatch.inference.duplicates import find_distinct
from distilbatch.sink.utf8 import valid_utf8
from distilbatch.source.reader import read_shard
from distilbatch.tokenization import DocumentTokenizer

SHIPPED = Path(__file__).parents[1] / "demo" / "documents.parquet"
MAX_CANDIDATES = 20_000
# Lengths in tokens follow a lognormal distribution: median 41, mean 41 e^(1/2) = 68, 90th percentile 148, cut at 512.
_MEDIAN_TOKENS = 41
_SIGMA = 1.0
_SPECIAL_TOKENS = 2
_MAX_CHARACTERS = 20_000  # of a candidate; far more than 512 tokens


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the documents are, in tokens, special tokens included.

    Args:
        documents: How many.
        tokens: Of all of them.
        mean: Of their lengths.
        median: Of their lengths.
        p90: The 90th percentile.
        max: The longest.
    """

    documents: int
    tokens: int
    mean: float
    median: float
    p90: float
    max: int

    @classmethod
    def of(cls, lengths: NDArray[np.int64]) -> Lengths:
        """Sum lengths up."""
        return cls(
            documents=len(lengths),
            tokens=int(lengths.sum()),
            mean=round(float(lengths.mean()), 1),
            median=float(np.median(lengths)),
            p90=float(np.percentile(lengths, 90)),
            max=int(lengths.max()),
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self)


def mix_documents(tokenizer: DocumentTokenizer, count: int, *, seed: int) -> list[str]:
    """Join shipped package descriptions into documents whose lengths follow the mix above.

    Args:
        tokenizer: Counts the tokens.
        count: How many documents.
        seed: Of the draw.
    """
    normal = NormalDist()
    wanted = [_MEDIAN_TOKENS * np.exp(_SIGMA * normal.inv_cdf((i + 0.5) / count)) for i in range(count)]
    return _draw(tokenizer, wanted, seed=seed)


def long_documents(tokenizer: DocumentTokenizer, count: int, *, tokens: int, seed: int) -> list[str]:
    """Join shipped package descriptions into documents of at least so many tokens.

    Args:
        tokenizer: Counts the tokens.
        count: How many documents.
        tokens: Of the shortest; about twice as many are aimed at, for whoever cuts them there.
        seed: Of the draw.
    """
    return _draw(tokenizer, [2.0 * tokens] * count, seed=seed)


def _draw(tokenizer: DocumentTokenizer, wanted: Sequence[float], *, seed: int) -> list[str]:
    """A document of about so many tokens each, in random order."""
    texts = [text for text in pq.read_table(SHIPPED, columns=["text"])["text"].to_pylist() if text]
    encoded = tokenizer.encode(texts)
    sizes = dict(zip(encoded.sequences.tolist(), (encoded.lengths - _SPECIAL_TOKENS).tolist(), strict=True))
    places = np.array(sorted(sizes), dtype=np.int64)
    rng = np.random.default_rng(seed)
    return [_join(texts, sizes, rng.permutation(places), int(wanted[i])) for i in rng.permutation(len(wanted))]


def _join(texts: list[str], sizes: dict[int, int], places: NDArray[np.int64], wanted: int) -> str:
    """Whole descriptions while they fit, then the first words of one more."""
    parts, left = [], max(1, wanted - _SPECIAL_TOKENS)
    for place in places.tolist():
        if sizes[place] > left:
            words = texts[place].split()
            parts.append(" ".join(words[: max(1, len(words) * left // sizes[place])]))
            break
        parts.append(texts[place])
        left -= sizes[place]
        if left <= 0:
            break
    return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Documents to choose from: all give tokens, and no two the same ones.

    Args:
        table: Their rows.
        lengths: ``(N,)`` tokens of each.
        repeats: Documents left out because an earlier one has the same tokens.
    """

    table: pa.Table
    lengths: NDArray[np.int64]
    repeats: int

    @classmethod
    def of(cls, table: pa.Table, texts: list[str], tokenizer: DocumentTokenizer) -> Candidates:
        """Leave out rows without tokens, and repeats: we would compute those once, which no other library does.

        Args:
            table: N rows.
            texts: Their texts.
            tokenizer: Cuts texts as in the race; the same beyond that cut is the same.
        """
        encoded = tokenizer.encode(texts)
        first = find_distinct(encoded).tokens
        chosen = first.sequences[first.lengths > _SPECIAL_TOKENS]
        repeats = int((encoded.lengths > _SPECIAL_TOKENS).sum()) - len(chosen)
        return cls(table.take(pa.array(chosen)), first.lengths[first.lengths > _SPECIAL_TOKENS], repeats)


def read_candidates(job: Job, tokenizer: DocumentTokenizer) -> Candidates:
    """Read a job's source: its first rows.

    Args:
        job: The job, limited to at most ``MAX_CANDIDATES`` rows.
        tokenizer: Counts the tokens.

    Raises:
        DataError: No row has text.
    """
    plan = build_plan(job, list_source(job), [])
    text = job.config.source.columns.text
    batches = [
        item.batch
        for shard in plan.shards
        for item in read_shard(
            job.source_root.absolute(),
            plan.fragments[shard.fragment],
            shard.row_start,
            shard.row_stop,
            schema=plan.schema,
            text_column=text,
        )
    ]
    table = pa.Table.from_batches(batches, schema=plan.schema)
    index = table.schema.get_field_index(text)
    chunks = [valid_utf8(chunk) for chunk in table.column(index).chunks]
    table = table.set_column(index, table.schema.field(index), pa.chunked_array(chunks, table.schema.field(index).type))
    texts = [(value or "")[:_MAX_CHARACTERS] for value in table.column(index).to_pylist()]
    found = Candidates.of(table, texts, tokenizer)
    if not len(found.lengths):
        raise DataError(f"{job.source_root}: nothing to measure", expected="rows with text", found="none")
    return found


def stratified(lengths: NDArray[np.int64], count: int, *, seed: int) -> NDArray[np.int64]:
    """Choose documents evenly over the order of lengths, so that few of them show the distribution of all.

    Args:
        lengths: ``(N,)`` tokens.
        count: How many to choose; all when there are fewer.
        seed: Of the order they come in.

    Returns:
        Indices, shuffled: a table is rarely sorted by length.
    """
    order = np.argsort(lengths, kind="stable")
    count = min(count, len(order))
    places = ((np.arange(count) + 0.5) * len(order) / count).astype(np.int64)
    return np.random.default_rng(seed).permutation(order[places])


def deal(lengths: NDArray[np.int64], hands: int) -> list[NDArray[np.int64]]:
    """Deal documents to processes, longest first, so that each has the same work."""
    order = np.argsort(-lengths, kind="stable")
    return [order[hand::hands] for hand in range(hands)]
