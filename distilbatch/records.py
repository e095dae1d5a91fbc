"""Frozen values that cross a stage boundary, and the one legend of shapes.

    B  rows of a sort buffer (documents, including those without text)
    N  documents of a token batch or of all token batches of a buffer (only those that reach the model)
    S  padded length of a ``(B, S)`` input
    T  real tokens, special tokens included, of N documents laid end to end
    H  hidden size            C  classes of a head

Ranges are half-open everywhere: ``start`` is inside, ``stop`` is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Partition = tuple[tuple[str, str | None], ...]

MAX_COUNTED_LABELS = 1000  # of a head; a column with more is no classification that a person reads the counts of


class RowStatus(str, Enum):
    """What became of one input row; written to ``_row.status``."""

    OK = "ok"
    TRUNCATED = "truncated"  # annotated from its beginning: over max_length tokens or over max_doc_bytes
    REPAIRED = "repaired"  # annotated after invalid UTF-8 was replaced by U+FFFD
    NULL = "null"
    EMPTY = "empty"  # no tokens: "", blanks, control characters only
    ERROR = "error"  # see ``_row.error``


@dataclass(frozen=True, slots=True)
class Fragment:
    """One source file and its identity at planning time.

    Args:
        path: Relative to the source's root, with forward slashes.
        size_bytes: Size of the file.
        footer_sha256: Digest of its last 64 KiB; with the size, the file's identity.
        num_rows: Rows in the file.
        row_groups: Rows of each row group, in order.
        text_bytes: Uncompressed bytes of the text column of each row group; what planning weighs.
        partition: Hive keys and values taken from the path.
    """

    path: str
    size_bytes: int
    footer_sha256: str
    num_rows: int
    row_groups: tuple[int, ...]
    text_bytes: tuple[int, ...]
    partition: Partition = ()

    @property
    def identity(self) -> tuple[str, int, str]:
        """What makes this file this file: path, size, footer digest."""
        return self.path, self.size_bytes, self.footer_sha256


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of work and of commit: rows ``[row_start, row_stop)`` of one fragment.

    Args:
        index: Position in the plan, from 0.
        shard_id: sha256 over model, semantic config, file identity and row range: derived, never random.
        fragment: Index of the fragment in the plan.
        row_start: First row.
        row_stop: One past the last row.
    """

    index: int
    shard_id: str
    fragment: int
    row_start: int
    row_stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.row_start < self.row_stop:
            raise ValueError(
                f"shard {self.index}: expected 0 <= row_start < row_stop, found [{self.row_start}, {self.row_stop})"
            )

    @property
    def num_rows(self) -> int:
        """Rows of the shard."""
        return self.row_stop - self.row_start


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """A record batch of a shard with the place it came from.

    Args:
        batch: The columns asked for, B rows. Columns the file lacks are null.
        row_start: Row of the fragment that ``batch``'s first row is.
        error: Why the rows could not be read; their columns are then all null.
    """

    batch: pa.RecordBatch
    row_start: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Documents:
    """The text column of a sort buffer after the text policy.

    Args:
        texts: B texts; None where there is nothing to tokenize.
        statuses: B statuses before tokenization.
        errors: B messages; None where there is none.
    """

    texts: list[str | None]
    statuses: list[RowStatus]
    errors: list[str | None]

    def with_errors(self, errors: dict[int, str]) -> Documents:
        """A copy in which the given rows are error rows with these messages."""
        if not errors:
            return self
        return Documents(
            texts=[None if row in errors else text for row, text in enumerate(self.texts)],
            statuses=[RowStatus.ERROR if row in errors else status for row, status in enumerate(self.statuses)],
            errors=[errors.get(row, message) for row, message in enumerate(self.errors)],
        )


@dataclass(frozen=True, slots=True)
class Sequences:
    """What a task wants tokenized: M sequences, each a text or a pair of texts, made of B rows.

    Args:
        first: M texts.
        second: M second texts of pairs; None where there are no pairs.
        rows: ``(M,)`` int64, the row of the sort buffer each was made of. Several sequences may share a row (choices,
            candidate labels) and a row may have none (no text).
        errors: Rows that cannot be asked, with the reason; they have no sequence.
    """

    first: list[str]
    second: list[str] | None
    rows: NDArray[np.int64]
    errors: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenDetails:
    """Where tokens come from; only tasks that point into texts need it.

    Args:
        offsets: ``(T, 2)`` int32, the half-open range of characters in the text the token belongs to; (0, 0) for
            special tokens.
        parts: ``(T,)`` int8: 0 a special token, 1 the first text, 2 the second.
    """

    offsets: NDArray[np.int32]
    parts: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """N documents as token ids laid end to end, without padding. A document is a sequence or a text window of one.

    Args:
        input_ids: ``(T,)`` int32.
        cu_seqlens: ``(N + 1,)`` int64, starting at 0; document i is ``input_ids[cu_seqlens[i]:cu_seqlens[i+1]]``.
        sequences: ``(N,)`` int64, the sequence each document is (a window of), rising.
        windows: ``(N,)`` int32, which window of its sequence it is, from 0.
        truncated: ``(N,)`` bool, True where tokens of the sequence were cut off and are in no window.
        details: Where each token comes from, if that was asked for.
        blank: ``(K,)`` int64, the sequences without a document because their main text has no tokens.
    """

    input_ids: NDArray[np.int32]
    cu_seqlens: NDArray[np.int64]
    sequences: NDArray[np.int64]
    windows: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    details: TokenDetails | None = None
    blank: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        if len(self.cu_seqlens) != len(self.sequences) + 1 or int(self.cu_seqlens[-1]) != len(self.input_ids):
            raise ValueError(
                f"token batch: expected cu_seqlens of {len(self.sequences) + 1} entries ending at "
                f"{len(self.input_ids)}, found {len(self.cu_seqlens)} ending at {self.cu_seqlens[-1]}"
            )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``(N,)`` tokens of each document."""
        return np.diff(self.cu_seqlens)

    def __len__(self) -> int:
        """N."""
        return len(self.sequences)


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """What a head computed for a token batch, on the host.

    Args:
        positions: ``(P,)`` int64, rising: the documents, or the tokens (indices into ``input_ids``), that the values
            belong to, as the task's readout says. Documents too large for the device's memory are left out.
        values: ``(P, ...)`` float32.
        ids: ``(P, K)`` int64, the token ids the values are of; only for readouts over the vocabulary.
        tokens_computed: Tokens that went through the encoder for them, as the model counted them.
        seconds: Time they took, waiting for the device left out. A shared forward counts for its first head only.
    """

    positions: NDArray[np.int64]
    values: NDArray[np.float32]
    ids: NDArray[np.int64] | None = None
    tokens_computed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """One output column.

    Args:
        column: B values; null where a row has no prediction.
        errors: Rows that could not be annotated, with the reason.
    """

    column: pa.Array
    errors: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A finished Parquet file that is durable and not yet visible.

    Args:
        name: File name inside the run's staging folder.
        partition: Partition values of all its rows.
        num_rows: Rows of the file.
        size_bytes: Size of the file.
        sha256: Digest of the whole file.
    """

    name: str
    partition: Partition
    num_rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What a finished attempt at a shard reports to the driver; a few hundred bytes.

    Args:
        index: The shard.
        attempt_id: The attempt; unique.
        files: What it staged.
        num_rows: Rows written; equals the shard's rows.
        statuses: Rows by status.
        schema_sha256: Digest of the written Arrow schema; all shards of a run must agree.
        metrics: Seconds by stage, tokens, resident bytes; figures only, nothing is decided by them.
        label_counts: Per head, rows by label, where the head has labels and not more than ``MAX_COUNTED_LABELS``.
    """

    index: int
    attempt_id: str
    files: tuple[StagedFile, ...]
    num_rows: int
    statuses: dict[str, int]
    schema_sha256: str
    metrics: dict[str, float] = field(default_factory=dict)
    label_counts: dict[str, dict[str, int]] = field(default_factory=dict)
