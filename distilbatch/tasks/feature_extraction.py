"""Feature extraction: the encoder's vectors as a column, pooled, normalised and narrowed as asked.

Pooling follows sentence-transformers' documentation; without pooling the column is what the Hugging Face
feature-extraction pipeline returns. Vectors of text windows are averaged, weighted by tokens for mean pooling, which
makes that the mean over all tokens of all windows.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from typing_extensions import override

from distilbatch.errors import ConfigError
from distilbatch.records import Decoded, HeadOutput, Sequences
from distilbatch.tasks.base import NOT_FINITE, Asked, Inputs, Task, failed_rows, single_texts

INT8_SCALE = 127.0
HALF_MAX = float(np.finfo(np.float16).max)
_TYPES = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}


@dataclass(frozen=True, slots=True)
class FeatureExtractionOptions:
    """What a user may choose.

    Args:
        pooling: cls, mean, max or none.
        normalize: Whether vectors get length 1, after ``truncate_dim``.
        truncate_dim: How many leading dimensions to keep; None keeps all.
        output: float32, float16, or int8 (values times 127, rounded).
    """

    pooling: Literal["cls", "mean", "max", "none"] = "mean"
    normalize: bool = False
    truncate_dim: int | None = None
    output: Literal["float32", "float16", "int8"] = "float32"


class FeatureExtractionTask(Task):
    """``fixed_size_list<number, D>`` a row; without pooling a list of them, one for each token.

    Args:
        dim: H.
        options: The user's choices.

    Raises:
        ConfigError: ``truncate_dim`` is above H.
    """

    def __init__(self, dim: int, options: FeatureExtractionOptions) -> None:
        if options.truncate_dim is not None and options.truncate_dim > dim:
            raise ConfigError("truncate_dim", expected=f"at most {dim}", found=str(options.truncate_dim))
        self._options = options
        self._dim = options.truncate_dim or dim

    @property
    def _vector(self) -> pa.DataType:
        return pa.list_(_TYPES[self._options.output], self._dim)

    @property
    @override
    def type(self) -> pa.DataType:
        return pa.list_(self._vector) if self._options.pooling == "none" else self._vector

    @property
    @override
    def sharing_key(self) -> Hashable:
        return ("text",)

    @override
    def sequences(self, inputs: Inputs) -> Sequences:
        return single_texts(inputs)

    @override
    def decode(self, output: HeadOutput, asked: Asked) -> Decoded:
        tokens = asked.tokens
        by_token = self._options.pooling == "none"
        documents = output.positions
        if by_token:
            documents = np.searchsorted(tokens.cu_seqlens, output.positions, side="right") - 1
        errors = failed_rows(np.unique(documents), asked)
        if not len(documents):
            return Decoded(pa.nulls(asked.num_rows, self.type), errors)
        owners = asked.document_rows[documents]
        rows, first = np.unique(owners, return_index=True)
        vectors = output.values if by_token else self._over_windows(output.values, first, tokens.lengths[documents])
        vectors = self._finish(vectors)
        finite = np.isfinite(vectors).all(axis=1)
        if by_token:
            finite = np.logical_and.reduceat(finite, first)
        errors |= dict.fromkeys(rows[~finite].tolist(), NOT_FINITE)
        good = rows[finite & ~np.isin(rows, list(errors))]
        if by_token:
            return Decoded(self._token_column(vectors, owners, good, asked.num_rows), errors)
        return Decoded(self._column(vectors[np.isin(rows, good)], good, asked.num_rows), errors)

    def _over_windows(
        self, vectors: NDArray[np.float32], first: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        if len(first) == len(vectors):
            return vectors
        if self._options.pooling == "max":
            return np.maximum.reduceat(vectors, first, axis=0)
        weights = lengths.astype(np.float32) if self._options.pooling == "mean" else np.ones(len(vectors), np.float32)
        total: NDArray[np.float32] = np.add.reduceat(vectors * weights[:, None], first, axis=0)
        return (total / np.add.reduceat(weights, first)[:, None]).astype(np.float32)

    def _finish(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        vectors = vectors[:, : self._dim]
        if self._options.normalize:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(lengths, 1e-12)
        if self._options.output == "float16":
            vectors = np.where(np.abs(vectors) > HALF_MAX, np.float32(np.inf), vectors)  # what it would become
        return vectors

    def _numbers(self, vectors: NDArray[np.float32]) -> pa.Array:
        """A flat Arrow array over the numbers; float32 is not copied."""
        if self._options.output == "int8":
            return pa.array(np.rint(vectors * INT8_SCALE).astype(np.int8).reshape(-1))
        kind = np.float16 if self._options.output == "float16" else np.float32
        return pa.array(np.ascontiguousarray(vectors, dtype=kind).reshape(-1))

    def _column(self, vectors: NDArray[np.float32], rows: NDArray[np.int64], num_rows: int) -> pa.Array:
        if len(rows) == num_rows:
            return pa.FixedSizeListArray.from_arrays(self._numbers(vectors), type=self._vector)
        spread = np.zeros((num_rows, self._dim), np.float32)
        spread[rows] = vectors
        missing = np.ones(num_rows, dtype=np.bool_)
        missing[rows] = False
        return pa.FixedSizeListArray.from_arrays(self._numbers(spread), type=self._vector, mask=pa.array(missing))

    def _token_column(
        self, vectors: NDArray[np.float32], owners: NDArray[np.int64], rows: NDArray[np.int64], num_rows: int
    ) -> pa.Array:
        keep = np.isin(owners, rows)
        counts = np.bincount(owners[keep], minlength=num_rows)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        missing = np.ones(num_rows + 1, dtype=np.bool_)
        missing[rows] = False
        missing[num_rows] = False
        items = pa.FixedSizeListArray.from_arrays(self._numbers(vectors[keep]), type=self._vector)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32(), mask=missing), items).cast(self.type)
