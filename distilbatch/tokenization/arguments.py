"""The arguments of a tokenizer call, checked."""

from __future__ import annotations

from collections.abc import Sequence

from distilbatch.errors import ConfigError

Texts = list[str] | tuple[str, ...]
Pairs = list[tuple[str, str]] | list[list[str]] | tuple[tuple[str, str], ...]


def chosen(value: bool | str, names: Sequence[str], what: str, *, none: str = "") -> str:
    """Return the name that was chosen: of True the first, of False or ``none`` no name.

    Raises:
        ConfigError: There is no such name.
    """
    if value is False or value is True:
        return names[0] if value else ""
    if none and value == none:
        return ""
    if value not in names:
        raise ConfigError(what, expected=" or ".join((*names, none) if none else names), found=repr(value))
    return value


def as_groups(text: str | Texts | Pairs, text_pair: str | Texts | None) -> list[list[str]]:
    """Return the B first texts, and the B second texts where there are such.

    Raises:
        ConfigError: There is not one second text for each first one, or something is not a text.
    """
    given = (text,) if text_pair is None else (text, text_pair)
    groups: list[list[object]] = [list(one) if isinstance(one, (list, tuple)) else [one] for one in given]
    if isinstance(text, str) != isinstance(given[-1], str) or len(groups[0]) != len(groups[-1]):
        raise ConfigError(
            "text_pair",
            expected="one string for one string, or as many as there are texts",
            found=f"{_described(text)} and {_described(text_pair)}",
        )
    if text_pair is None and groups[0] and all(map(_is_pair, groups[0])):
        groups = [list(part) for part in zip(*groups[0], strict=True)]
    return [[_checked(item, index) for index, item in enumerate(group)] for group in groups]


def _is_pair(item: object) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 2


def _checked(item: object, index: int) -> str:
    if not isinstance(item, str):
        raise ConfigError(
            f"text {index}",
            expected="a string, or pairs of strings in all places",
            found=f"{type(item).__name__} {str(item)[:40]}",
        )
    return item


def _described(text: object) -> str:
    return f"a sequence of {len(text)}" if isinstance(text, (list, tuple)) else "a string"
