"""Annotation in a notebook or a program of one's own: texts in, predictions out, no files and no Ray."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from distilbatch import schema
from distilbatch.config import Annotation, AnnotationSection
from distilbatch.config.problems import key_text, problems_of
from distilbatch.engine.annotated import row_array
from distilbatch.engine.heads import Heads
from distilbatch.engine.resolution import head_spec
from distilbatch.engine.spec import DeviceSpec
from distilbatch.errors import ConfigError
from distilbatch.model.source import locate_named
from distilbatch.tokenization.text import DEFAULT_MAX_DOC_BYTES

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import TypeIs

_BUFFER_ROWS = 4096
_CLASSES: dict[str, type[AnnotationSection]] = {
    kind.model_fields["task"].default: kind for kind in get_args(Annotation)
}


class Annotator:
    """A model that stays loaded and annotates whatever it is called with.

    Args:
        task: ``text-classification``, or another task as in a config.
        model: The checkpoint folder, or a hub id; a ``Path`` is always a folder.
        revision: Branch, tag or commit of a hub id; None takes ``main``.
        precision: auto, float32, bfloat16, float16 or int8.
        device: auto, cpu, cuda or cuda:N.
        name: Name of the output column; in pandas its fields become columns ``<name>_label`` and so on.
        text_column: The column with the main text, when called with a table.
        max_batch_tokens: Token budget of a forward call; None suits the device.
        options: The task's options, named as in a config: ``top_k=3``, ``max_length=128``, ``question="Who?"``.

    Raises:
        ConfigError: An argument is wrong.
        CheckpointError: The model cannot be had, or is not a DistilBERT checkpoint with the head that the task needs.
        SetupError: The device or precision is not usable here.
    """

    def __init__(  # noqa: PLR0913 - what a config says of an annotation and its engine
        self,
        task: str = "text-classification",
        *,
        model: str | Path,
        revision: str | None = None,
        precision: str = "auto",
        device: str = "auto",
        name: str = "prediction",
        text_column: str = "text",
        max_batch_tokens: int | None = None,
        **options: Any,  # noqa: ANN401 - checked by the task's annotation class
    ) -> None:
        annotation = _annotation(task, {"name": name, "model": str(model), "revision": revision, **options})
        spec = DeviceSpec(device=device, precision=precision, max_batch_tokens=max_batch_tokens)
        head = head_spec(annotation, text_column, locate_named(model, revision=revision))
        self._name = name
        self._text_column = text_column
        self._columns = list(dict.fromkeys(column for _, column in head.columns))
        self._heads = Heads([head], device=spec, max_doc_bytes=DEFAULT_MAX_DOC_BYTES)

    def __call__(self, documents: Any, *, text_column: str | None = None) -> Any:  # noqa: ANN401 - the kind it was given
        """Annotate documents; one result for each, in the order given.

        Args:
            documents: Texts (None stands for a missing one), dicts with one value for each column that the task
                reads, a record batch, a table or a pandas frame.
            text_column: The column with the main text, when it is not the one the annotator was made for.

        Returns:
            A list with a prediction for each text or dict, None where there is nothing to annotate; else the same
            kind as given, with the output column and ``_row`` added (pandas: flat columns, and ``<name>_status``).

        Raises:
            ConfigError: ``documents`` is of another kind, a column is missing, or an output column exists.
        """
        renamed = {} if text_column is None else {self._text_column: text_column}
        if isinstance(documents, pa.RecordBatch):
            table = self._table(pa.Table.from_batches([documents]), renamed)
            columns = [column.combine_chunks() for column in table.columns]
            return pa.RecordBatch.from_arrays(columns, schema=table.schema)
        if isinstance(documents, pa.Table):
            return self._table(documents, renamed)
        if _is_frame(documents):
            return self._frame(documents, renamed)
        if isinstance(documents, (str, bytes, Mapping)) or not isinstance(documents, Sequence):
            raise ConfigError(
                "documents",
                expected="a list of texts or dicts, a pyarrow RecordBatch or Table, or a pandas DataFrame",
                found=type(documents).__name__,
                remedy="put a single text into a list",
            )
        return self._list(documents, renamed)

    def explain(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, str | None]]:
        """Annotate dicts as a call does, and say what is wrong with those that cannot be.

        Args:
            rows: One value for each column that the task reads.

        Returns:
            For each a prediction, or None where there is none, and its error, or None where there is none.

        Raises:
            ConfigError: A value is of another kind.
        """
        if not rows:
            return []
        results = self._annotate(self._list_columns(rows, {}))
        errors = results.flatten().column(f"{schema.ROW}.{schema.ERROR}").to_pylist()
        return list(zip(results.column(self._name).to_pylist(), errors, strict=True))

    def _list(self, documents: Sequence[object], renamed: Mapping[str, str]) -> list[Any]:
        if not len(documents):
            return []
        columns = self._list_columns(documents, renamed)
        predictions: list[Any] = self._annotate(columns).column(self._name).to_pylist()
        return predictions

    def _list_columns(self, documents: Sequence[object], renamed: Mapping[str, str]) -> dict[str, pa.ChunkedArray]:
        if not any(isinstance(item, Mapping) for item in documents):
            return {self._only_column: _values(documents, "documents")}
        for index, item in enumerate(documents):
            if not isinstance(item, Mapping):
                raise ConfigError(f"documents[{index}]", expected="a dict", found=type(item).__name__)
        return {
            name: _column([dict(item).get(renamed.get(name, name)) for item in documents], name)  # type: ignore[call-overload]
            for name in self._columns
        }

    @property
    def _only_column(self) -> str:
        if len(self._columns) > 1:
            raise ConfigError("documents", expected=f"dicts with {', '.join(self._columns)}", found="single values")
        return self._columns[0]

    def _table(self, table: pa.Table, renamed: Mapping[str, str]) -> pa.Table:
        self._check_columns(table.column_names, renamed, added=[self._name, schema.ROW])
        results = self._annotate({name: table.column(renamed.get(name, name)) for name in self._columns})
        for name in results.column_names:
            table = table.append_column(results.schema.field(name), results.column(name))
        return table

    def _frame(self, frame: pd.DataFrame, renamed: Mapping[str, str]) -> pd.DataFrame:
        kind = self._heads.fields[0].type
        fields = [field.name for field in kind] if pa.types.is_struct(kind) else []
        status = f"{self._name}_{schema.STATUS}"
        self._check_columns(list(frame.columns), renamed, added=[*(_flat(self._name, fields)), status])
        columns = {name: _frame_column(frame[renamed.get(name, name)], name) for name in self._columns}
        results = self._annotate(columns)
        flat = results.flatten()
        added = {f"{self._name}_{field}": flat.column(f"{self._name}.{field}").to_pylist() for field in fields} or {
            self._name: results.column(self._name).to_pylist()
        }
        added[status] = flat.column(f"{schema.ROW}.{schema.STATUS}").to_pylist()
        labelled: pd.DataFrame = frame.assign(**added)
        return labelled

    def _check_columns(self, names: Sequence[str], renamed: Mapping[str, str], *, added: Sequence[str]) -> None:
        for column in self._columns:
            if (wanted := renamed.get(column, column)) not in names:
                raise ConfigError("documents", expected=f"a column {wanted!r}", found=f"the columns {list(names)}")
            if (count := list(names).count(wanted)) > 1:
                raise ConfigError("documents", expected=f"one column named {wanted!r}", found=str(count))
        if taken := [name for name in added if name in names]:
            raise ConfigError(
                "documents", expected=f"no columns named {list(added)}", found=repr(taken), remedy="pass another name="
            )

    def _annotate(self, columns: Mapping[str, pa.ChunkedArray]) -> pa.Table:
        output = pa.schema([*self._heads.fields, pa.field(schema.ROW, schema.ROW_TYPE, nullable=False)])
        table = pa.table(dict(columns))
        batches, start = [], 0
        for batch in table.to_batches(max_chunksize=_BUFFER_ROWS):
            buffer = self._heads.tokenize(dict(zip(batch.schema.names, batch.columns, strict=True)))
            annotated = self._heads.decode(buffer, self._heads.predict(buffer))
            rows = np.arange(start, start + batch.num_rows)
            place = row_array(annotated, source_file=None, source_rows=rows)
            batches.append(pa.RecordBatch.from_arrays([*annotated.columns, place], schema=output))
            start += batch.num_rows
        return pa.Table.from_batches(batches, schema=output)


def _annotation(task: str, options: dict[str, Any]) -> AnnotationSection:
    if task not in _CLASSES:
        raise ConfigError("task", expected=" or ".join(sorted(_CLASSES)), found=repr(task))
    try:
        return _CLASSES[task](**options)
    except ValidationError as error:
        problems = [f"{key_text(at)}: {message}" for at, message in problems_of(error, _CLASSES[task])]
        raise ConfigError(f"{task}: {'; '.join(problems)}") from error


def _flat(name: str, fields: Sequence[str]) -> list[str]:
    return [f"{name}_{field}" for field in fields] or [name]


def _is_frame(documents: object) -> TypeIs[pd.DataFrame]:
    pandas = sys.modules.get("pandas")  # who has a frame has loaded it, which takes half a second
    return pandas is not None and isinstance(documents, pandas.DataFrame)


def _frame_column(series: pd.Series[Any], name: str) -> pa.ChunkedArray:
    # pandas marks a missing text as NaN, NA or NaT.
    missing = series.isna().tolist()
    return _values([None if gone else value for value, gone in zip(series.tolist(), missing, strict=True)], name)


def _column(values: Sequence[Any], name: str) -> pa.ChunkedArray:
    return _values([None if _is_missing(value) else value for value in values], name)


def _is_missing(value: Any) -> bool:  # noqa: ANN401 - any value
    if isinstance(value, (str, list, tuple, np.ndarray)):
        return False
    pandas = sys.modules.get("pandas")  # without it there are no NA and NaT of its own
    if pandas is not None:
        return bool(pandas.api.types.is_scalar(value) and pandas.isna(value))
    return value is None or (isinstance(value, Number) and value != value)  # noqa: PLR0124 - NaN


def _values(values: Sequence[Any], name: str) -> pa.ChunkedArray:
    if all(value is None for value in values):
        return pa.chunked_array([pa.nulls(len(values))])  # neither texts nor lists: goes with what the task reads
    if not any(isinstance(value, (list, tuple, np.ndarray)) for value in values):
        return _texts(values, name)
    for index, value in enumerate(values):
        if value is not None and not _is_list_of_texts(value):
            raise ConfigError(f"{name}[{index}]", expected="a list of texts or None", found=type(value).__name__)
    items = [None if value is None else [_utf8(text) for text in value] for value in values]
    return pa.chunked_array([pa.array(items, pa.large_list(pa.large_binary()))])


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, (list, tuple, np.ndarray)) and all(item is None or isinstance(item, str) for item in value)


def _texts(documents: Sequence[object], name: str) -> pa.ChunkedArray:
    """Texts as UTF-8 bytes; a lone surrogate, which UTF-8 cannot hold, is left to the text policy to repair."""
    for index, text in enumerate(documents):
        if text is not None and not isinstance(text, str):
            raise ConfigError(f"{name}[{index}]", expected="a text or None", found=type(text).__name__)
    return pa.chunked_array([pa.array([_utf8(text) for text in documents], pa.large_binary())])


def _utf8(text: object) -> bytes | None:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else None
