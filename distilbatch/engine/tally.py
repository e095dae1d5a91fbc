"""Counts over the buffers of a shard."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from distilbatch import schema
from distilbatch.engine.annotated import AnnotatedBuffer


class Tally:
    """Rows by status and label, tokens, and the schema that was written."""

    def __init__(self) -> None:
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
            if pa.types.is_struct(column.type) and column.type.get_field_index(schema.LABEL) >= 0:
                labels = column.drop_null().field(schema.LABEL).value_counts()
                counts = self.labels.setdefault(name, Counter())
                counts.update({item["values"].as_py(): item["counts"].as_py() for item in labels})
