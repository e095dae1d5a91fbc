"""The two tables of a config: the source of documents and the sink of predictions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from distilbatch.config.fields import ColumnName, GlobText, Number, Section, TemplatedPath, refused, repeated_name

__all__ = ["RESERVED_COLUMN", "Columns", "ParquetSink", "ParquetSource", "Sink", "Source"]

RESERVED_COLUMN = "_row"  # distilbatch.schema.ROW, which this module cannot import without loading pyarrow


class Columns(Section):
    """The columns of the source that are read for the model.

    Args:
        text: The column with the main text.
    """

    text: ColumnName = "text"


class ParquetSource(Section):
    """Parquet files below a folder.

    Args:
        type: The kind of table.
        path: The folder, or one file.
        columns: Where the text is.
        partitioning: ``hive`` reads columns from folder names such as ``registry=npm``.
        glob: Which files below ``path`` are read.
        on_bad_file: ``fail`` stops before any work; ``quarantine`` lists the file and leaves it out.
        max_doc_bytes: Longer documents are cut, and their rows say so.
    """

    type: Literal["parquet"] = "parquet"
    path: TemplatedPath
    columns: Columns = Columns()
    partitioning: Literal["hive", "none"] = "hive"
    glob: GlobText = "**/*.parquet"
    on_bad_file: Literal["fail", "quarantine"] = "fail"
    max_doc_bytes: Annotated[int, Number(minimum=1024)] = 1 << 20


class ParquetSink(Section):
    """Parquet files below a folder: one row out for each row in.

    Args:
        type: The kind of table.
        path: The folder; made when missing.
        passthrough: Columns of the source that are copied to the output, in this order.
        partition_by: Columns among them that become folders such as ``registry=npm``.
        compression: Codec of all columns.
        compression_level: Level of the codec; zstd only, 3 when not given.
        row_group_rows: Rows of a row group, at most.
        max_error_share: Most of a run's rows, from 0 to 1, that may be error rows. A run with more is not published;
            what it has computed is kept, and a higher share publishes it. Null publishes any.
    """

    type: Literal["parquet"] = "parquet"
    path: TemplatedPath
    passthrough: tuple[ColumnName, ...] = ()
    partition_by: tuple[ColumnName, ...] = ()
    compression: Literal["zstd", "snappy", "none"] = "zstd"
    compression_level: Annotated[int, Number(minimum=1, maximum=22)] | None = Field(default=None, validate_default=True)
    row_group_rows: Annotated[int, Number(minimum=1)] = 131_072
    max_error_share: Annotated[float, Number(minimum=0, maximum=1, whole=False)] | None = None

    @field_validator("passthrough")
    @classmethod
    def _check_passthrough(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        _check_unique(names)
        if RESERVED_COLUMN in names:
            raise refused(f"'{RESERVED_COLUMN}' is written by distilbatch itself", at=(names.index(RESERVED_COLUMN),))
        return names

    @field_validator("partition_by")
    @classmethod
    def _check_partition_by(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        _check_unique(names)
        for index, name in enumerate(names):
            if name not in info.data.get("passthrough", names):
                raise refused(f"'{name}' must be listed in sink.passthrough as well", at=(index,))
        return names

    @field_validator("compression_level")
    @classmethod
    def _check_level(cls, level: int | None, info: ValidationInfo) -> int | None:
        codec = info.data.get("compression", "zstd")
        if level is not None and codec != "zstd":
            raise refused(f"only zstd has levels, and sink.compression is '{codec}'")
        return 3 if level is None and codec == "zstd" else level


def _check_unique(names: tuple[str, ...]) -> None:
    if (index := repeated_name(names)) is not None:
        raise refused(f"'{names[index]}' is listed twice", at=(index,))


Source = ParquetSource
Sink = ParquetSink
