"""The arguments of a tokenizer call, checked."""

from __future__ import annotations

from collections.abc import Sequence

from distilbatch.errors import ConfigError

Texts = list[str] | tuple[str, ...]


def chosen(value: bool | str, names: Sequence[str], what: str) -> str:
    """Return the name that was chosen: of True the first, of False none.

    Raises:
        ConfigError: There is no such name.
    """
    if value is False or value is True:
        return names[0] if value else ""
    if value not in names:
        raise ConfigError(what, expected=" or ".join(names), found=repr(value))
    return value


def as_groups(text: str | Texts, text_pair: str | Texts | None) -> list[list[str]]:
    """Return the B first texts, and the B second texts where there are such.

    Raises:
        ConfigError: There is not one second text for each first one.
    """
    groups = [[one] if isinstance(one, str) else list(one) for one in (text, text_pair) if one is not None]
    mixed = text_pair is not None and isinstance(text, str) != isinstance(text_pair, str)
    if mixed or len(groups[0]) != len(groups[-1]):
        raise ConfigError(
            "text_pair",
            expected="one string for one string, or as many as there are texts",
            found=f"{_described(text)} and {_described(text_pair)}",
        )
    return groups


def _described(text: str | Texts | None) -> str:
    return "a string" if isinstance(text, str) or text is None else f"a sequence of {len(text)}"
