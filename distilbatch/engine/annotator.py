"""Annotation in a notebook or a program of one's own: texts in, predictions out, no files and no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from distilbatch import schema
from distilbatch.engine.heads import Heads, row_array
from distilbatch.engine.spec import DeviceSpec, HeadSpec
from distilbatch.errors import ConfigError
from distilbatch.tokenization.text import DEFAULT_MAX_DOC_BYTES

_BUFFER_ROWS = 4096
TASKS = ("text-classification",)


class Annotator:
    """A model that stays loaded and labels whatever it is called with.

    Args:
        task: ``text-classification``.
        model: The checkpoint folder.
        precision: auto, float32, bfloat16 or float16.
        device: auto, cpu, cuda or cuda:N.
        name: Name of the output column; in pandas its fields become columns ``<name>_label`` and so on.
        top_k: How many classes to list with their scores; None gives the best one only.
        function_to_apply: none, sigmoid, softmax or None for what the checkpoint asks for.
        threshold: Smallest score listed.
        max_length: Most tokens of a document; None takes what the model allows.
        max_batch_tokens: Token budget of a forward call; None suits the device.

    Raises:
        ConfigError: An argument is wrong.
        CheckpointError: The folder is not a DistilBERT sequence classifier.
        SetupError: The device or precision is not usable here.
    """

    def __init__(  # noqa: PLR0913 - the options of a head, each with a default
        self,
        task: str = "text-classification",
        *,
        model: str | Path,
        precision: str = "auto",
        device: str = "auto",
        name: str = "prediction",
        top_k: int | None = None,
        function_to_apply: str | None = None,
        threshold: float | None = None,
        max_length: int | None = None,
        max_batch_tokens: int | None = None,
    ) -> None:
        if task not in TASKS:
            raise ConfigError("task", expected=" or ".join(TASKS), found=repr(task))
        head = HeadSpec(
            name=name,
            model=Path(model),
            max_length=max_length,
            top_k=top_k,
            function_to_apply=function_to_apply,
            threshold=threshold,
        )
        spec = DeviceSpec(device=device, precision=precision, max_batch_tokens=max_batch_tokens)
        self._name = name
        self._heads = Heads([head], device=spec, max_doc_bytes=DEFAULT_MAX_DOC_BYTES)

    def __call__(self, documents: Any, *, text_column: str = "text") -> Any:  # noqa: ANN401 - the kind it was given
        """Label documents; one result for each, in the order given.

        Args:
            documents: Texts (None stands for a missing one), a record batch, a table or a pandas frame.
            text_column: The column with the texts, for the last three.

        Returns:
            A list of dicts (None where there is nothing to label) for texts; else the same kind as given, with
            the output column and ``_row`` added (pandas: flat columns, and ``<name>_status``).

        Raises:
            ConfigError: ``documents`` is of another kind, the text column is missing, or an output column exists.
        """
        if isinstance(documents, pa.RecordBatch):
            table = self._table(pa.Table.from_batches([documents]), text_column)
            columns = [column.combine_chunks() for column in table.columns]
            return pa.RecordBatch.from_arrays(columns, schema=table.schema)
        if isinstance(documents, pa.Table):
            return self._table(documents, text_column)
        if isinstance(documents, pd.DataFrame):
            return self._frame(documents, text_column)
        if isinstance(documents, (str, bytes)) or not isinstance(documents, Sequence):
            raise ConfigError(
                "documents",
                expected="a list of texts, a pyarrow RecordBatch or Table, or a pandas DataFrame",
                found=type(documents).__name__,
                remedy="put a single text into a list",
            )
        predictions: list[dict[str, Any] | None] = self._annotate(_texts(documents)).column(self._name).to_pylist()
        return predictions

    def _table(self, table: pa.Table, text_column: str) -> pa.Table:
        self._check_columns(table.column_names, text_column, added=[self._name, schema.ROW])
        texts = table.column(text_column)
        if not _is_text(texts.type):
            raise ConfigError(f"column {text_column!r}", expected="string or binary", found=str(texts.type))
        results = self._annotate(texts)
        for name in results.column_names:
            table = table.append_column(results.schema.field(name), results.column(name))
        return table

    def _frame(self, frame: pd.DataFrame, text_column: str) -> pd.DataFrame:
        fields = [field.name for field in self._heads.fields[0].type]
        added = [f"{self._name}_{field}" for field in [*fields, schema.STATUS]]
        self._check_columns(list(frame.columns), text_column, added=added)
        texts = [None if pd.api.types.is_scalar(text) and pd.isna(text) else text for text in frame[text_column]]
        results = self._annotate(_texts(texts)).flatten()
        columns = {f"{self._name}_{field}": results.column(f"{self._name}.{field}").to_pylist() for field in fields}
        columns[f"{self._name}_{schema.STATUS}"] = results.column(f"{schema.ROW}.{schema.STATUS}").to_pylist()
        labelled: pd.DataFrame = frame.assign(**columns)
        return labelled

    def _check_columns(self, names: Sequence[str], text_column: str, *, added: Sequence[str]) -> None:
        if text_column not in names:
            raise ConfigError("text_column", expected=f"one of {list(names)}", found=repr(text_column))
        if (count := list(names).count(text_column)) > 1:
            raise ConfigError("text_column", expected=f"one column named {text_column!r}", found=str(count))
        if taken := [name for name in added if name in names]:
            raise ConfigError(
                "documents", expected=f"no columns named {list(added)}", found=repr(taken), remedy="pass another name="
            )

    def _annotate(self, texts: pa.ChunkedArray) -> pa.Table:
        output = pa.schema([*self._heads.fields, pa.field(schema.ROW, schema.ROW_TYPE, nullable=False)])
        batches, start = [], 0
        for chunk in texts.chunks:
            for offset in range(0, len(chunk), _BUFFER_ROWS):
                column = chunk.slice(offset, _BUFFER_ROWS)
                buffer = self._heads.tokenize(column)
                annotated = self._heads.decode(buffer, self._heads.predict(buffer))
                rows = np.arange(start, start + len(column))
                place = row_array(annotated, source_file=None, source_rows=rows)
                batches.append(pa.RecordBatch.from_arrays([*annotated.columns, place], schema=output))
                start += len(column)
        return pa.Table.from_batches(batches, schema=output)


def _texts(documents: Sequence[object]) -> pa.ChunkedArray:
    """Texts as UTF-8 bytes; a lone surrogate, which UTF-8 cannot hold, is left to the text policy to repair."""
    for index, text in enumerate(documents):
        if text is not None and not isinstance(text, str):
            raise ConfigError(f"documents[{index}]", expected="a text or None", found=type(text).__name__)
    values = [None if text is None else str(text).encode("utf-8", "surrogatepass") for text in documents]
    return pa.chunked_array([pa.array(values, pa.large_binary())])


def _is_text(kind: pa.DataType) -> bool:
    return any(
        check(kind)
        for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )
