"""The annotations of a config or pipeline: one class for each task. A new task is a new class and a union member."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator

from distilbatch.config.fields import Identifier, Number, PathText, Section, refused
from distilbatch.errors import ConfigError

__all__ = ["MODEL_REMEDY", "Annotation", "TextClassification", "WrittenAnnotation"]

MODEL_REMEDY = "name its folder in models.{0}, or as 'model' of the annotation"


class TextClassification(Section):
    """One column of class labels with scores; the same type in YAML (``annotate``) and in a pipeline file.

    Args:
        name: Name of the output column.
        task: Always ``text-classification``; may be left out in Python.
        model: Folder of the checkpoint. A pipeline may leave it to the config's ``models``.
        top_k: How many classes to write with their scores; None writes the best class alone.
        function_to_apply: How logits become scores; None takes what the checkpoint asks for.
        threshold: Least score of a class to be reported, for models with several labels a row.
        max_length: Longest text in tokens, special tokens included; None takes the model's limit.

    Raises:
        pydantic.ValidationError: An argument is unknown, of the wrong type or out of bounds (a ``ValueError``).
    """

    name: Identifier
    task: Literal["text-classification"] = "text-classification"
    model: PathText | None = None
    top_k: Annotated[int, Number(minimum=1)] | None = None
    function_to_apply: Literal["none", "softmax", "sigmoid"] | None = None
    threshold: Annotated[float, Number(minimum=0, maximum=1, whole=False)] | None = None
    max_length: Annotated[int, Number(minimum=3)] | None = None

    @property
    def checkpoint(self) -> str:
        """The folder of the checkpoint.

        Raises:
            ConfigError: Neither the annotation nor the config names one.
        """
        if self.model is None:
            raise ConfigError(f"annotation '{self.name}' has no model", remedy=MODEL_REMEDY.format(self.name))
        return self.model


def _require_task(value: object) -> object:
    # A config that leaves the task out would change its meaning, or break, when there is a second task.
    if isinstance(value, Mapping) and "task" not in value:
        raise refused("required key is missing: 'text-classification'", at=("task",))
    return value


Annotation = TextClassification
WrittenAnnotation = Annotated[Annotation, BeforeValidator(_require_task)]
