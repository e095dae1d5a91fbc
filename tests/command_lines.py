"""Whether a ``distilbatch ...`` line, as documents and schedulers hold it, is one that the program would accept."""

from __future__ import annotations

import shlex

import typer

from distilbatch.cli import app


def parse_command_line(line: str) -> dict[str, object]:
    """Parse a line as the program does, without running it, and return the verb's values.

    Raises:
        AssertionError: The verb does not exist, or something it needs is missing.
        click.UsageError: An option or argument does not exist.
    """
    program, *words = shlex.split(line)
    assert program == "distilbatch", line
    command, name = typer.main.get_command(app), program
    while words and (verbs := getattr(command, "commands", None)) is not None and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in verbs, f"{line}: no verb {name!r}; there are {sorted(verbs)}"
        command = verbs[name]
    with command.make_context(name, [], resilient_parsing=True) as context:  # takes part in parsing only
        context.resilient_parsing = False
        values, rest, _ = command.make_parser(context).parse_args(list(words))
    assert rest == [], f"{line}: nobody takes {rest}"
    if not values.get("help"):
        missing = [
            parameter.name for parameter in command.params if parameter.required and not values.get(parameter.name)
        ]
        assert missing == [], f"{line}: needs {missing}"
    return {"verb": name, **values}
