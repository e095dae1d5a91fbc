"""The texts of a sort buffer by role, after the text policy; the main text decides whether a row is null or empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from distilbatch.engine.spec import HeadSpec
from distilbatch.errors import DataError
from distilbatch.records import Documents, RowStatus
from distilbatch.tasks.base import ChoicesColumn, Inputs, TextColumn
from distilbatch.tokenization import read_texts

CHOICES = "choices"


@dataclass(frozen=True, slots=True)
class BufferTexts:
    """The texts of a sort buffer.

    Args:
        columns: Texts, or lists of texts, by source column; texts without anything to read are None.
        statuses: B statuses, of the main text column.
        errors: B messages; None where there is none.
    """

    columns: Mapping[str, TextColumn | ChoicesColumn]
    statuses: list[RowStatus]
    errors: list[str | None]

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.statuses)

    def of(self, spec: HeadSpec) -> Inputs:
        """The texts that a head reads, by role; several columns of choices become one column of lists.

        Rows that are errors already have no texts: nothing is computed for them.
        """
        inputs: dict[str, TextColumn | ChoicesColumn] = {}
        choices = [name for role, name in spec.columns if role == CHOICES]
        for role, name in spec.columns:
            inputs[role] = [None if self._failed(row) else text for row, text in enumerate(self.columns[name])]
        if len(choices) > 1:
            together = zip(*(self.columns[name] for name in choices), strict=True)
            inputs[CHOICES] = [None if self._failed(row) else list(texts) for row, texts in enumerate(together)]
        return inputs

    def with_errors(self, errors: Mapping[int, str]) -> BufferTexts:
        """A copy in which the given rows are error rows with these messages."""
        if not errors:
            return self
        rows = range(self.num_rows)
        return replace(
            self,
            statuses=[RowStatus.ERROR if row in errors else self.statuses[row] for row in rows],
            errors=[errors.get(row, self.errors[row]) for row in rows],
        )

    def _failed(self, row: int) -> bool:
        return self.statuses[row] is RowStatus.ERROR


def read_inputs(columns: Mapping[str, pa.Array], specs: Sequence[HeadSpec], *, max_doc_bytes: int) -> BufferTexts:
    """Apply the text policy to every column that heads read.

    Args:
        columns: Source columns by name, B values each.
        specs: The annotations; the first column of the first is the main text.
        max_doc_bytes: Longer documents are cut.

    Raises:
        DataError: A column is neither text nor a list of texts.
    """
    main = specs[0].columns[0][1]
    texts: dict[str, TextColumn | ChoicesColumn] = {}
    statuses: list[RowStatus] = []
    for name in dict.fromkeys(name for spec in specs for _, name in spec.columns):
        column = columns[name]
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            texts[name] = _read_lists(name, column, max_doc_bytes)
            if name == main:
                statuses = [RowStatus.NULL if item is None else RowStatus.OK for item in texts[name]]
            continue
        documents = _read(name, column, max_doc_bytes)
        texts[name] = documents.texts
        if name == main:
            statuses = documents.statuses
    return BufferTexts(texts, statuses, [None] * len(statuses))


def _read(name: str, column: pa.Array, max_doc_bytes: int) -> Documents:
    kind = column.type
    if pa.types.is_null(kind):
        column = column.cast(pa.string())
    elif not any(
        check(kind)
        for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    ):
        raise DataError(f"column {name!r}", expected="text", found=str(kind))
    return read_texts(column, max_doc_bytes=max_doc_bytes)


def _read_lists(name: str, column: pa.Array, max_doc_bytes: int) -> list[list[str | None] | None]:
    flat = _read(name, column.flatten(), max_doc_bytes).texts
    lists: list[list[str | None] | None] = []
    start = 0
    for length in pc.list_value_length(column).to_pylist():
        lists.append(None if length is None else flat[start : start + length])
        start += length or 0
    return lists
