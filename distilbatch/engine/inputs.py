"""The texts of a sort buffer by role, after the text policy; the main text decides whether a row is null or empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from distilbatch.engine.spec import HeadSpec
from distilbatch.errors import ConfigError
from distilbatch.records import Documents, RowStatus
from distilbatch.source.schemas import is_text, plain_array, plain_type
from distilbatch.tasks.base import ChoicesColumn, Inputs, TextColumn
from distilbatch.tasks.token_classification import WORDS
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
        columns: Source columns by name, B values each; dictionaries, views and Arrow's JSON are read as what they hold.
        specs: The annotations; the first column of the first is the main text.
        max_doc_bytes: Longer documents are cut.

    Raises:
        ConfigError: A column is not there, or not text, or not a list of texts where that is wanted.
    """
    check_columns({name: column.type for name, column in columns.items()}, specs)
    main = specs[0].columns[0][1]
    texts: dict[str, TextColumn | ChoicesColumn] = {}
    statuses: list[RowStatus] = []
    for name in dict.fromkeys(name for spec in specs for _, name in spec.columns):
        column = columns[name]
        if _is_list(plain_type(column.type)):
            texts[name] = _read_lists(column, max_doc_bytes)
            if name == main:
                statuses = [RowStatus.NULL if item is None else RowStatus.OK for item in texts[name]]
            continue
        documents = _read(column, max_doc_bytes)
        texts[name] = documents.texts
        if name == main:
            statuses = documents.statuses
    return BufferTexts(texts, statuses, [None] * len(statuses))


def reads_list(spec: HeadSpec, role: str) -> bool:
    """Whether a head wants a list of texts a row in the column of this role; else it wants a text."""
    return role == WORDS or (role == CHOICES and [known for known, _ in spec.columns].count(CHOICES) == 1)


def check_columns(types: Mapping[str, pa.DataType], specs: Sequence[HeadSpec]) -> None:
    """Refuse columns that heads cannot read.

    Args:
        types: Types of the columns there are, by name.
        specs: The annotations.

    Raises:
        ConfigError: A column is not there, or not text, or not a list of texts where that is wanted.
    """
    for spec in specs:
        for role, name in spec.columns:
            _check_column(name, types, wants_list=reads_list(spec, role))


def _check_column(name: str, columns: Mapping[str, pa.DataType], *, wants_list: bool) -> None:
    if name not in columns:
        raise ConfigError(f"no column {name!r}", found=f"the columns {', '.join(columns)}")
    kind = plain_type(columns[name])
    if pa.types.is_null(kind):
        return
    if _is_list(kind) != wants_list or not _is_text(kind.value_type if wants_list else kind):
        raise ConfigError(
            f"column {name!r}", expected="lists of texts" if wants_list else "text", found=str(columns[name])
        )


def _is_list(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_null(kind) or is_text(kind)


def _read(column: pa.Array, max_doc_bytes: int) -> Documents:
    texts = plain_array(column)
    if pa.types.is_null(texts.type):
        texts = texts.cast(pa.string())
    return read_texts(texts, max_doc_bytes=max_doc_bytes)


def _read_lists(column: pa.Array, max_doc_bytes: int) -> list[list[str | None] | None]:
    flat = _read(column.flatten(), max_doc_bytes).texts
    lists: list[list[str | None] | None] = []
    start = 0
    for length in pc.list_value_length(column).to_pylist():
        lists.append(None if length is None else flat[start : start + length])
        start += length or 0
    return lists
