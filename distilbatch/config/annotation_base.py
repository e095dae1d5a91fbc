"""What the annotations of all tasks have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import model_validator
from typing_extensions import Self

from distilbatch.config.fields import Identifier, Number, PathText, Revision, Section, refused
from distilbatch.errors import ConfigError

__all__ = ["MODEL_REMEDY", "AnnotationSection", "Reduction", "Share", "Stride", "TopK"]

MODEL_REMEDY = "name its folder or hub id in models.{0}, or as 'model' of the annotation"

TopK = Annotated[int, Number(minimum=1)]
Stride = Annotated[int, Number(minimum=0)]
Reduction = Literal["mean", "max", "length_weighted", "first"]
Share = Annotated[float, Number(minimum=0, maximum=1, whole=False)]


class AnnotationSection(Section):
    """What every annotation has; the same types serve YAML (``annotate``) and pipeline files.

    Args:
        name: Name of the output column.
        task: What is computed.
        model: Folder of the checkpoint, or a hub id such as ``org/name``. A pipeline may leave it to the config's
            ``models``.
        revision: Branch, tag or commit of a hub id; None takes ``main``. Only a commit never moves.
        max_length: Longest text in tokens, special tokens included; None takes the limit of the model or of its
            tokenizer (``model_max_length``), at most 512.
        stride: Tokens that neighbouring text windows of a long document share; None reads its beginning only. Of
            two texts the main one is read in windows, beside the beginning of the other: at most half of the room,
            unless the main text needs less.

    Raises:
        pydantic.ValidationError: An argument is unknown, of the wrong type or out of bounds (a ``ValueError``).
    """

    name: Identifier
    task: str
    model: PathText | None = None
    revision: Revision | None = None
    max_length: Annotated[int, Number(minimum=3)] | None = None
    stride: Stride | None = None

    @model_validator(mode="after")
    def _check_revision(self) -> Self:
        if self.revision is not None and self.model is None:
            raise refused("a revision stands beside its model; name the model here too", at=("revision",))
        return self

    @property
    def checkpoint(self) -> str:
        """The folder or hub id of the checkpoint.

        Raises:
            ConfigError: Neither the annotation nor the config names one.
        """
        if self.model is None:
            raise ConfigError(f"annotation '{self.name}' has no model", remedy=MODEL_REMEDY.format(self.name))
        return self.model

    def columns(self, text: str) -> tuple[tuple[str, str], ...]:
        """The source columns by role, the main text first.

        Args:
            text: The source's text column.
        """
        return (("text", text),)

    @property
    def window_stride(self) -> int | None:
        """Tokens that text windows share; None where a long text is cut."""
        return self.stride

    def options(self) -> dict[str, Any]:
        """The task's own options, by name."""
        return self.model_dump(exclude=set(AnnotationSection.model_fields) | self._column_fields)

    @property
    def _column_fields(self) -> set[str]:
        return set()
