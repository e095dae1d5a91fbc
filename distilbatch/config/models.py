"""The config as a whole: its sections, the checks across them, and the settings that change results.

Relative paths are relative to the working directory of the run, as on any command line; they are never resolved here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Annotated, Any, Literal, Protocol

from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import override

from distilbatch.config.annotation_base import MODEL_REMEDY
from distilbatch.config.annotations import Annotation, WrittenAnnotation
from distilbatch.config.engines import Engine
from distilbatch.config.fields import (
    JobName,
    PathText,
    Revision,
    Section,
    TimezoneName,
    expected,
    plain_path,
    refused,
    repeated_name,
)
from distilbatch.config.tables import Sink, Source
from distilbatch.errors import ConfigError
from distilbatch.fingerprint import stringify_floats

__all__ = ["ChosenModel", "Config", "DeclaresAnnotations", "Job"]


class Job(Section):
    """Who runs.

    Args:
        name: The name under which runs are recorded.
        timezone: Whose calendar ``--date`` follows.
    """

    name: JobName = "job"
    timezone: TimezoneName = "UTC"


class ChosenModel(Section):
    """The model of an annotation; a text stands for ``{model: text}``.

    Args:
        model: Folder of the checkpoint, or a hub id such as ``org/name``.
        revision: Branch, tag or commit of a hub id; None takes ``main``. Only a commit never moves.
    """

    model: PathText
    revision: Revision | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, value: object) -> object:
        if isinstance(value, (str, PathLike)):
            return {"model": plain_path(fspath(value))}
        if not isinstance(value, (Mapping, cls)):
            raise expected("a folder, a hub id, or a mapping with 'model' and 'revision'")
        return value

    @model_serializer
    def _to_text(self) -> str | dict[str, str]:
        return self.model if self.revision is None else {"model": self.model, "revision": self.revision}

    @classmethod
    @override
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, super().__get_pydantic_json_schema__(schema, handler)]}


def _refuse_true(value: object) -> object:
    if value is True:  # which equals 1 in Python
        raise expected("1")
    return value


class DeclaresAnnotations(Protocol):
    """What a config needs of a pipeline."""

    @property
    def annotate(self) -> Sequence[Annotation]:
        """The annotations, in the order of the output columns."""


class Config(Section):
    """A whole job. Every key but ``source``, ``sink`` and one of ``annotate`` and ``pipeline`` has a default.

    Args:
        version: Version of this format.
        job: Name and calendar.
        source: The table of documents.
        annotate: The annotations, in the order of the output columns.
        pipeline: Path of a Python file that declares them instead.
        models: By annotation name, the checkpoint: a folder, a hub id, or ``{model: org/name, revision: v1}``; it
            takes the place of model and revision of the annotation.
        sink: The table of predictions.
        engine: How the work is executed; ``local`` when no type is given.
    """

    version: Annotated[Literal[1], BeforeValidator(_refuse_true)] = 1
    job: Job = Job()
    source: Source
    annotate: tuple[WrittenAnnotation, ...] = ()
    pipeline: PathText | None = Field(default=None, validate_default=True)
    models: dict[str, ChosenModel] = Field(default={}, validate_default=True)
    sink: Sink
    engine: Engine = Engine()

    @field_validator("annotate")
    @classmethod
    def _check_annotate(cls, annotate: tuple[Annotation, ...]) -> tuple[Annotation, ...]:
        if (index := repeated_name([item.name for item in annotate])) is not None:
            raise refused(f"the name '{annotate[index].name}' is taken by another annotation", at=(index, "name"))
        return annotate

    # The checks across sections sit on fields and look at the fields before them, so that they run, and report,
    # even when something else in the file is wrong. A section that is itself wrong is absent from info.data.

    @field_validator("pipeline")
    @classmethod
    def _check_pipeline(cls, pipeline: str | None, info: ValidationInfo) -> str | None:
        annotate = info.data.get("annotate")
        if pipeline is None and annotate == ():
            raise refused("required key is missing: name a pipeline file here, or list annotations in 'annotate'")
        if pipeline is not None and annotate:
            raise refused("a config has either 'pipeline' or 'annotate', not both")
        return pipeline

    @field_validator("models")
    @classmethod
    def _check_models(cls, models: dict[str, ChosenModel], info: ValidationInfo) -> dict[str, ChosenModel]:
        annotate = info.data.get("annotate")
        if annotate and (problem := _models_problem(annotate, models)):
            raise refused(problem)
        return models

    @field_validator("sink")
    @classmethod
    def _check_sink(cls, sink: Sink, info: ValidationInfo) -> Sink:
        taken = {item.name for item in info.data.get("annotate", ())}
        for index, name in enumerate(sink.passthrough):
            if name in taken:
                raise refused(_collision(name), at=("passthrough", index))
        return sink

    def annotations(self, pipeline: DeclaresAnnotations | None = None) -> tuple[Annotation, ...]:
        """Return the annotations to compute, each with its checkpoint: ``item.checkpoint`` never fails.

        Args:
            pipeline: What the file in ``self.pipeline`` declares; None when the config spells annotations out.

        Raises:
            ConfigError: An annotation has no model, ``models`` names one that does not exist, or an annotation
                has the name of a passthrough column.
        """
        declared = self.annotate if pipeline is None else tuple(pipeline.annotate)
        if not declared:
            raise ConfigError("no annotations", remedy="load the config's pipeline and pass it in")
        if problem := _models_problem(declared, self.models):
            raise ConfigError(f"models: {problem}")
        for item in declared:
            if item.name in self.sink.passthrough:
                raise ConfigError(f"sink.passthrough: {_collision(item.name)}")
        return tuple(
            item.model_copy(update=dict(self.models[item.name])) if item.name in self.models else item
            for item in declared
        )

    def semantic(self, annotations: Sequence[Annotation] | None = None, *, hooks: str | None = None) -> dict[str, Any]:
        """Return the settings that change results, as JSON without floats: what the fingerprint of a run covers.

        Models are left out (their content has its own fingerprint), and so is everything operational.

        Args:
            annotations: What ``annotations()`` returned; None takes ``self.annotate``.
            hooks: Fingerprint of the pipeline's hooks; None where there are none.
        """
        chosen = self.annotate if annotations is None else annotations
        settings = {
            "version": self.version,
            "columns": self.source.columns.model_dump(),
            "partitioning": self.source.partitioning,
            "max_doc_bytes": self.source.max_doc_bytes,
            "annotate": [item.model_dump(exclude={"model", "revision"}) for item in chosen],
            "passthrough": list(self.sink.passthrough),
            "partition_by": list(self.sink.partition_by),
            "precision": self.engine.precision,
            "hooks": hooks,
        }
        stringified: dict[str, Any] = stringify_floats(settings)
        return stringified


def _models_problem(annotate: Sequence[Annotation], models: Mapping[str, ChosenModel]) -> str:
    names = [item.name for item in annotate]
    for name in models:
        if name not in names:
            return f"no annotation is named '{name}'; there are: {', '.join(names)}"
    for item in annotate:
        if item.model is None and item.name not in models:
            return f"annotation '{item.name}' has no model; " + MODEL_REMEDY.format(item.name)
    return ""


def _collision(name: str) -> str:
    return f"'{name}' is also the name of an annotation; rename one of them"
