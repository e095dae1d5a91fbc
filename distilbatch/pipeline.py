"""Pipelines: which annotations a table gets, declared in a Python file, with optional hooks around the model.

A pipeline file is the user's own program and runs as such; nothing that comes from a checkpoint, a table or a
config's values ever does.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

from pydantic import ValidationError

from distilbatch.config.annotation_base import AnnotationSection
from distilbatch.config.annotations import Annotation, TextClassification
from distilbatch.config.fields import repeated_name
from distilbatch.config.problems import key_text, problems_of
from distilbatch.errors import ConfigError, DistilbatchError
from distilbatch.fingerprint import sha256_bytes

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Pipeline", "TextClassification", "load_pipeline", "pipeline_fingerprint"]

Hook = Callable[["pa.RecordBatch"], "pa.RecordBatch"]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What is computed for a table.

    A hook gets a record batch and returns one with the same number of rows in the same order; it must give the same
    answer every time, because a shard may be computed more than once.

    Args:
        annotate: The annotations, in the order of the output columns.
        before: Called on each record batch of the source before its text is read.
        after: Called on each record batch of the output before it is written.

    Raises:
        ConfigError: There is no annotation, two have the same name, or an argument has the wrong type.
    """

    annotate: Sequence[Annotation]
    before: Hook | None = None
    after: Hook | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.annotate, (list, tuple)):
            raise ConfigError("Pipeline.annotate", expected="a list", found=type(self.annotate).__name__)
        object.__setattr__(self, "annotate", tuple(self.annotate))
        if not self.annotate:
            raise ConfigError("Pipeline.annotate is empty", expected="at least one annotation")
        for index, item in enumerate(self.annotate):
            if not isinstance(item, AnnotationSection):
                raise ConfigError(
                    f"Pipeline.annotate.{index}",
                    expected="an annotation such as TextClassification(name=...)",
                    found=type(item).__name__,
                )
        names = [item.name for item in self.annotate]
        if (repeated := repeated_name(names)) is not None:
            raise ConfigError(
                f"Pipeline.annotate.{repeated}: the name '{names[repeated]}' is taken by another annotation"
            )
        for hook in ("before", "after"):
            value = getattr(self, hook)
            if value is not None and not callable(value):
                raise ConfigError(f"Pipeline.{hook}", expected="a function", found=type(value).__name__)


def load_pipeline(path: Path) -> Pipeline:
    """Run the Python file at ``path`` and return the ``PIPELINE`` it defines.

    The file is run from its text and stays out of ``sys.modules``: two files of one name do not meet, no stale byte
    code is used, and hooks travel to other processes by value.

    Raises:
        ConfigError: The file cannot be read or run, ends the program, or defines no ``PIPELINE``.
        DistilbatchError: The library raised another error inside the file.
    """
    code = _compile(path)
    module = ModuleType(f"distilbatch_pipeline_{path.stem}")
    module.__file__ = str(path)
    try:
        exec(code, module.__dict__)
    except ValidationError as error:
        problems = [f"{key_text(at)}: {message}" for at, message in problems_of(error, TextClassification)]
        raise ConfigError(f"{_place(path, error)}: TextClassification: {'; '.join(problems)}") from error
    except ConfigError as error:
        raise ConfigError(f"{_place(path, error)}: {error}") from error
    except DistilbatchError:
        raise  # of a library call inside the file: it says what to do, and its exit code is right
    except SystemExit as error:
        raise ConfigError(
            f"{_place(path, error)}: it ends the program (SystemExit: {error.code})",
            expected="a file that declares PIPELINE",
        ) from error
    except Exception as error:  # the user's own statements may raise anything
        raise ConfigError(f"{_place(path, error)}: {type(error).__name__}: {error}".removesuffix(": ")) from error
    pipeline = module.__dict__.get("PIPELINE")
    if pipeline is None:
        raise ConfigError(f"{path}: no PIPELINE", remedy="end the file with PIPELINE = Pipeline(annotate=[...])")
    if not isinstance(pipeline, Pipeline):
        raise ConfigError(f"{path}: PIPELINE", expected="a distilbatch.Pipeline", found=type(pipeline).__name__)
    return pipeline


def pipeline_fingerprint(path: Path) -> str:
    """Return the sha256 hex digest of a pipeline file's text.

    Raises:
        ConfigError: The file cannot be read.
    """
    return sha256_bytes(_read(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such pipeline file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot read the pipeline file: {reason}") from None


def _compile(path: Path) -> CodeType:
    try:
        return compile(_read(path), str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno or 1}: not valid Python: {error.msg}") from None
    except ValueError as error:  # null bytes, in Python before 3.12
        raise ConfigError(f"{path}: not valid Python: {error}") from None


def _place(path: Path, error: BaseException) -> str:
    """``<file>:<line>`` of the last statement of the pipeline file that ``error`` went through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)
