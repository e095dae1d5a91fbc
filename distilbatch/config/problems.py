"""What pydantic found wrong, in our words: a key path as the user wrote it, what was expected, what was found."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distilbatch.config.document import describe
from distilbatch.config.fields import Location

__all__ = ["key_text", "problems_of", "suggestion"]

_EXPECTED = {
    "string_type": "a string",
    "string_too_short": "text that is not empty",
    "string_unicode": "valid Unicode text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def problems_of(
    error: ValidationError, model: type[BaseModel], *, references: Mapping[Location, str] | None = None
) -> list[tuple[Location, str]]:
    """Return the key path and message of every error.

    Args:
        error: What validating ``model`` raised.
        model: The class of the outermost section.
        references: By key path, what is shown in place of a value that came from the environment.
    """
    return [_problem(details, model, references or {}) for details in error.errors(include_url=False)]


def _problem(details: ErrorDetails, model: type[BaseModel], references: Mapping[Location, str]) -> tuple[Location, str]:
    kind, context = details["type"], details.get("ctx", {})
    path = (*_written(model, details["loc"])[0], *context.get("at", ()))
    if kind == "extra_forbidden":
        owner = _written(model, details["loc"][:-1])[1]
        return path, f"unknown key ({suggestion(str(path[-1]), list(owner.model_fields) if owner else [])})"
    if kind == "missing":
        return path, "required key is missing"
    if kind == "too_short":
        return path, "expected a list that is not empty"
    if kind == "refused":
        return path, str(context["message"])
    found = details["input"]
    if kind == "union_tag_invalid":
        key = str(context["discriminator"]).strip("'")
        path, found = (*path, key), found.get(key)
        expected = " or ".join(str(context["expected_tags"]).rsplit(", ", 1))
    elif kind == "literal_error":
        expected = str(context["expected"])
    elif kind == "expected":
        expected = str(context["what"])
    elif kind in _EXPECTED:
        expected = _EXPECTED[kind]
    else:
        return path, details["msg"]
    shown = f"the value of {describe(references[path])}" if path in references else describe(found)
    message = f"expected {expected}, found {shown}"
    if kind == "string_type" and path not in references and not isinstance(found, (Mapping, list, type(None))):
        message += " (put it in quotes)"
    return path, message


def suggestion(word: str, valid: list[str]) -> str:
    """``did you mean 'x'?`` when one of ``valid`` is near, else the list of them."""
    near = difflib.get_close_matches(word[:80], valid, n=1)
    return f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(valid)}"


def key_text(path: Location) -> str:
    """``annotate.0.top_k``."""
    return ".".join(str(part)[:60] for part in path)


def _written(model: type[BaseModel], location: Location) -> tuple[Location, type[BaseModel] | None]:
    """Walk the types along ``location``, leaving out the tags that pydantic puts in where there are several kinds.

    Returns:
        The key path as the user wrote it, and the section that it leads to, if it does.
    """
    here: Any = model
    path: Location = ()
    for part in location:
        member = _member(here, part)
        path = path if member else (*path, part)
        here = member or _child(here, part)
    return path, here if _is_section(here) else None


def _member(kind: Any, tag: str | int) -> type[BaseModel] | None:  # noqa: ANN401 - any annotation
    """The section with this tag in a union of sections."""
    if get_origin(kind) not in (Union, UnionType):
        return None
    for section in get_args(kind):
        if _is_section(section) and any(tag in get_args(field.annotation) for field in section.model_fields.values()):
            member: type[BaseModel] = section
            return member
    return None


def _bare(kind: Any) -> Any:  # noqa: ANN401 - any annotation
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        sections = [member for member in get_args(kind) if member is not type(None)]
        return _bare(sections[0]) if len(sections) == 1 else kind
    return kind


def _is_section(kind: Any) -> bool:  # noqa: ANN401 - any annotation
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _child(kind: Any, part: str | int) -> Any:  # noqa: ANN401 - any annotation
    if _is_section(kind):
        field = kind.model_fields.get(part)
        return _bare(field.annotation) if field else None
    arguments = get_args(kind)
    if get_origin(kind) in (tuple, list) and arguments:
        return _bare(arguments[0])
    return _bare(arguments[1]) if get_origin(kind) is dict else None
