"""The words of a command line as they were typed, for what has to say which command it comes from."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand
from typing_extensions import override

_WORDS = "distilbatch.words"


class KeepsWords(TyperCommand):
    """A verb that can be asked for its words; ``sys.argv`` is somebody else's where the program is called in Python."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # a context of click, or of typer's copy of it
        ctx.meta[_WORDS] = tuple(args)
        return super().parse_args(ctx, args)


def words_of(context: typer.Context) -> tuple[str, ...]:
    """What follows the verb of a :class:`KeepsWords`."""
    words: tuple[str, ...] = context.meta[_WORDS]
    return words
