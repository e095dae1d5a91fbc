"""What the sections of a config are made of: their base class, scalar types, and the two ways to refuse a value."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from typing_extensions import override

from distilbatch.config.descriptions import describe_keys
from distilbatch.config.templates import template_problem
from distilbatch.oserrors import excess_of

__all__ = [
    "AutoInt",
    "AutoNumber",
    "ColumnName",
    "Device",
    "GlobText",
    "GpuShare",
    "Identifier",
    "JobName",
    "Number",
    "PathText",
    "Revision",
    "Section",
    "TemplatedPath",
    "TimezoneName",
    "expected",
    "path_problem",
    "plain_path",
    "refused",
    "repeated_name",
]

MAX_WHOLE = 2**31 - 1  # every limit ends up in a 32- or 64-bit integer
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # pathlib makes one slash of two
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")

Location = tuple[str | int, ...]


def expected(what: str, *, at: Location = ()) -> PydanticCustomError:
    """An error that reads "expected <what>, found <the value>"; ``at`` is relative to the field that raises it."""
    return PydanticCustomError("expected", "expected {what}", {"what": what, "at": at})


def refused(message: str, *, at: Location = ()) -> PydanticCustomError:
    """An error that reads ``message``; ``at`` is relative to the field that raises it."""
    return PydanticCustomError("refused", "{message}", {"message": message, "at": at})


def repeated_name(names: Sequence[str]) -> int | None:
    """Position of the first name that was there before; None when all differ."""
    return next((index for index, name in enumerate(names) if name in names[:index]), None)


class Section(BaseModel):
    """A mapping with a fixed set of keys; immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @classmethod
    @override
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        section = handler.resolve_ref_schema(handler(schema))
        section["description"] = str(section.get("description", "")).partition("\n\n")[0]
        for name, text in describe_keys(cls).items():
            if name in section["properties"]:
                section["properties"][name]["description"] = text
        return section


@dataclass(frozen=True, slots=True)
class Number:
    """Annotation of a number with bounds, both inclusive. Text is read as a number, true and false are not.

    Text counts because a value that comes from ``${env:NAME}`` is always text.

    Args:
        minimum: Least value.
        maximum: Greatest value.
        whole: Only whole numbers.
        auto: The word ``auto`` is allowed as well.
        above: A bound that the value must exceed, in place of ``minimum``.
    """

    minimum: float | None = None
    maximum: float | None = None
    whole: bool = True
    auto: bool = False
    above: float | None = None

    @property
    def what(self) -> str:
        """The allowed values in words."""
        words = "a whole number" if self.whole else "a number"
        if self.above is not None:
            words += f" above {self.above:g}"
        elif self.minimum is not None and self.maximum is not None:
            words += f" from {self.minimum:g} to {self.maximum:g}"
        elif self.minimum is not None:
            words += f" of at least {self.minimum:g}"
        return f"'auto' or {words}" if self.auto else words

    def check(self, value: object) -> int | float | str:
        """Return ``value`` as a number or ``auto``.

        Raises:
            PydanticCustomError: It is neither, or out of bounds.
        """
        if self.auto and value == "auto":
            return "auto"
        number = _as_whole(value) if self.whole else _as_number(value)
        if number is None or not self._within(number):
            raise expected(self.what)
        return number

    def _within(self, number: float) -> bool:
        if self.above is not None and not number > self.above:
            return False
        if self.minimum is not None and not number >= self.minimum:
            return False
        if self.whole and self.maximum is None and number > MAX_WHOLE:
            raise expected(f"a whole number of at most {MAX_WHOLE}")
        return self.maximum is None or number <= self.maximum

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        number: JsonSchemaValue = {"type": "integer" if self.whole else "number"}
        bounds = {"minimum": self.minimum, "maximum": self.maximum, "exclusiveMinimum": self.above}
        number |= {key: bound for key, bound in bounds.items() if bound is not None}
        return {"anyOf": [{"const": "auto"}, number]} if self.auto else number


def _as_whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    return None


def _as_number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if abs(value) <= MAX_WHOLE else None  # NaN and infinity fail this too
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return float(value)
    return None


@dataclass(frozen=True, slots=True)
class _Matching:
    pattern: str
    what: str

    def __call__(self, value: str) -> str:
        if re.fullmatch(self.pattern, value) is None:
            raise expected(self.what)
        return value


def plain_path(value: str) -> str:
    """Return a path, or the like, that is written out.

    Raises:
        PydanticCustomError: It is empty, a URL or below ``~``, or holds a null character or a template.
    """
    return _no_template(_path_text(value))


def path_problem(text: str) -> str:
    """Say why a path that somebody wrote would name another place than they mean; empty when it would not.

    The text is not repeated: a URL may hold a password.
    """
    if _URL.match(text):
        return "URLs are not opened; mount or copy what is there and give its path ('./' before a name that looks so)"
    if text.startswith("~"):
        return "'~' is not expanded; write the path in full ('./' before a name that begins so)"
    if excess := excess_of(text):
        return f"no file or folder has such a path: {excess}; shorten it"
    return ""


def _name_text(value: str) -> str:
    if not value or "\0" in value:
        raise expected("a path")
    return value


def _path_text(value: str) -> str:
    _name_text(value)
    if problem := path_problem(value):
        raise refused(problem)
    return value


def _no_template(value: str) -> str:
    if "{{" in value:
        raise refused("templates are expanded in source.path and sink.path only; write the value out")
    return value


def _template(value: str) -> str:
    if problem := template_problem(value):
        raise refused(problem)
    return value


def _timezone(value: str) -> str:
    if value == "UTC":  # works without a time zone database
        return value
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):  # unknown; "../x" or an absolute path; a folder such as "America"
        raise expected("an IANA time zone such as UTC or Europe/Berlin") from None
    return value


def _fspath(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _gpu_share(value: float | Literal["auto"]) -> float | Literal["auto"]:
    if value != "auto" and value > 1 and not value.is_integer():
        raise expected("'auto', a fraction of at most 1, or a whole number")
    return value


_NAME = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 100 characters"
_IDENTIFIER = "a column name of letters, digits and '_', beginning with a letter, at most 64 characters"

AutoInt = Annotated[int | Literal["auto"], Number(minimum=1, auto=True)]
AutoNumber = Annotated[float | Literal["auto"], Number(above=0, whole=False, auto=True)]
GpuShare = Annotated[float | Literal["auto"], Number(above=0, whole=False, auto=True), AfterValidator(_gpu_share)]
ColumnName = Annotated[str, Field(min_length=1)]
Device = Annotated[
    str, AfterValidator(_Matching(r"auto|cpu|cuda(?::[0-9]{1,3})?", "'auto', 'cpu', 'cuda' or 'cuda:<index>'"))
]
GlobText = Annotated[str, AfterValidator(_name_text), AfterValidator(_no_template)]
Identifier = Annotated[str, AfterValidator(_Matching(r"[A-Za-z][A-Za-z0-9_]{0,63}", _IDENTIFIER))]
JobName = Annotated[str, AfterValidator(_Matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", _NAME))]
PathText = Annotated[str, BeforeValidator(_fspath), AfterValidator(plain_path)]
Revision = Annotated[str, AfterValidator(_Matching(r"[A-Za-z0-9][A-Za-z0-9._/+@-]{0,254}", "a branch, tag or commit"))]
TemplatedPath = Annotated[str, BeforeValidator(_fspath), AfterValidator(_path_text), AfterValidator(_template)]
TimezoneName = Annotated[str, AfterValidator(_timezone)]
