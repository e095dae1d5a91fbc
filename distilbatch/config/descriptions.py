"""What each key of a section means, for the JSON Schema: the ``Args:`` of its class and of the classes it extends."""

from __future__ import annotations

import inspect
import re

__all__ = ["describe_keys"]

_ENTRY = re.compile(r"^    (\w+): ((?:.|\n(?=     ))+)", re.MULTILINE)


def describe_keys(section: type) -> dict[str, str]:
    """Return a line of text for each key that a docstring describes; the class's own wins over those it extends."""
    found: dict[str, str] = {}
    for cls in section.__mro__:
        _, _, arguments = inspect.cleandoc(cls.__doc__ or "").partition("Args:\n")
        for name, text in _ENTRY.findall(arguments.partition("\n\n")[0]):
            found.setdefault(name, " ".join(text.split()).replace("``", "'"))
    return found
