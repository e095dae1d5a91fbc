"""Counts over the buffers of a shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from distilbatch import schema
from distilbatch.engine.annotated import AnnotatedBuffer
from distilbatch.records import MAX_COUNTED_LABELS


class Tally:
    """Rows by status and label, tokens, and the schema that was written.

    Args:
        heads: Names of the heads' columns. Others are the user's: their values belong into no record or report.
    """

    def __init__(self, heads: Sequence[str]) -> None:
        self._heads = frozenset(heads)
        self._uncounted: set[str] = set()
        self.statuses: Counter[str] = Counter()
        self.labels: dict[str, Counter[str]] = {}
        self.tokens = 0
        self.tokens_computed = 0
        self.documents_repeated = 0
        self.schema_sha256 = ""

    def add(self, annotated: AnnotatedBuffer, batch: pa.RecordBatch, *, computed: int, repeated: int) -> None:
        """Count a finished buffer.

        Args:
            annotated: Its results.
            batch: What is written of it.
            computed: Tokens that went through encoders for it.
            repeated: Its documents that were the same as others of it.
        """
        self.tokens_computed += computed
        self.documents_repeated += repeated
        self.statuses.update(status.value for status in annotated.statuses)
        self.tokens += int(annotated.num_tokens.sum())
        self.schema_sha256 = schema.schema_sha256(batch.schema)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name in self._heads - self._uncounted:
                self._count_labels(name, column)

    def _count_labels(self, name: str, column: pa.Array) -> None:
        index = column.type.get_field_index(schema.LABEL) if pa.types.is_struct(column.type) else -1
        # The hook may have put anything into the column.
        if index < 0 or not pa.types.is_string(column.type.field(index).type):
            return
        labels = column.drop_null().field(index).drop_null().value_counts()
        counts = self.labels.setdefault(name, Counter())
        counts.update({item["values"].as_py(): item["counts"].as_py() for item in labels})
        if len(counts) > MAX_COUNTED_LABELS:
            self._uncounted.add(name)
            del self.labels[name]
