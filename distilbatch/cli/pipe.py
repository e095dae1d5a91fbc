"""The verb that annotates a stream: ``pipe``. Lines in, JSON Lines out as soon as they are ready; no Ray, no files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distilbatch.cli.console import show_text
from distilbatch.cli.failures import verb
from distilbatch.cli.lines import MAX_LINE_BYTES, BackgroundLines, is_cut
from distilbatch.cli.options import Debug, Revision
from distilbatch.errors import ConfigError, DataError
from distilbatch.startup import quick_imports, without_pandas

if TYPE_CHECKING:
    from distilbatch.engine.annotator import Annotator

PREDICTION = "prediction"
ERROR = "error"
AUTO = "auto"
TEXT = "text"
JSON = "json"
_NO_OPTIONS = {*("task", "model", "revision", "precision", "device", "name", "text_column", "max_batch_tokens")}
_SHOWN_CHARACTERS = 1000  # of a line that is too long


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the stream: as text, and as a row; ``problem`` says why there is none, else it is empty."""

    text: str
    row: Mapping[str, Any]
    problem: str = ""


def pipe(  # noqa: PLR0913, PLR0917 - the options of the program
    model: Annotated[str, typer.Option("--model", metavar="DIR|ID", help="The checkpoint: a folder, or a hub id.")],
    task: Annotated[str, typer.Option("--task", help="What to do, as in a config.")] = "text-classification",
    revision: Revision = None,
    options: Annotated[
        list[str] | None,
        typer.Option("-o", "--option", metavar="KEY=VALUE", help="An option of the task: -o top_k=3."),
    ] = None,
    text_column: Annotated[str, typer.Option("--text", help="Key of the main text in JSON Lines.")] = "text",
    line_format: Annotated[
        str, typer.Option("--format", help="text, json, or auto: a line that begins with { is JSON.")
    ] = AUTO,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="auto, float32, bfloat16, float16 or int8.")] = "auto",
    debug: Debug = False,
) -> None:
    """Annotate standard input: lines of text, or JSON Lines, to JSON Lines with a key 'prediction'.

    A line that cannot be read, or has more than 8 MiB, gets the key 'error' as well, and the others go on.
    """
    with verb(debug=debug), without_pandas():
        if line_format not in (AUTO, TEXT, JSON):
            raise ConfigError("--format", expected="auto, text or json", found=repr(line_format))
        # Reading starts while torch is still being loaded.
        lines = _standard_input()
        with quick_imports():
            from distilbatch.config.load import parse_options  # noqa: PLC0415
            from distilbatch.engine.annotator import Annotator  # noqa: PLC0415
            from distilbatch.engine.memory import steady_memory  # noqa: PLC0415

        chosen = parse_options(options or ())
        if taken := sorted(chosen.keys() & _NO_OPTIONS):
            raise ConfigError(f"-o {taken[0]}", expected=f"an option of {task}", found="a setting of the program")
        steady_memory()
        annotator = Annotator(
            task,
            model=model,
            revision=revision,
            device=device,
            precision=precision,
            text_column=text_column,
            **chosen,
        )
        for batch in lines.batches():
            parsed = [_parse(line, text_column, line_format) for line in batch]
            if not show_text("".join(_annotated(annotator, parsed, text_column))):
                return  # the reader has seen enough; the stream may never end


def _standard_input() -> BackgroundLines:
    if sys.stdin is None:
        raise ConfigError("there is no standard input", found="closed", remedy="pipe lines in, or name a file with <")
    if isinstance(sys.stdout, TextIOWrapper):
        # JSON is UTF-8 whatever the locale; half a surrogate pair becomes the escape that JSON has for it.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    return BackgroundLines(sys.stdin.buffer)


def _annotated(annotator: Annotator, lines: Sequence[_Line], text_column: str) -> Iterator[str]:
    """Answers to lines, as JSON Lines."""
    asked = [line.row for line in lines if not line.problem]
    try:
        answers = iter(annotator.explain(asked))
    except (ConfigError, DataError) as error:
        # A value of the wrong kind is the fault of its row alone.
        if len(lines) > 1:
            for one in lines:
                yield from _annotated(annotator, [one], text_column)
        else:
            yield _answer(lines[0], text_column, None, str(error))
        return
    for line in lines:
        yield _answer(line, text_column, *((None, line.problem) if line.problem else next(answers)))


def _answer(line: _Line, text_column: str, prediction: object, problem: str | None) -> str:
    """A row with its answer, as a line of JSON."""
    try:
        return _json({**line.row, PREDICTION: prediction, **({ERROR: problem} if problem else {})})
    except (ValueError, RecursionError) as error:  # 1e999 is a number of JSON, but infinity when it was read
        return _json({text_column: line.text, PREDICTION: None, ERROR: f"cannot be written as JSON: {error}"})


def _json(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _parse(line: bytes, text_column: str, line_format: str) -> _Line:
    text = line.decode("utf-8", errors="replace").rstrip("\r\n")
    if is_cut(line):
        text = text[:_SHOWN_CHARACTERS]
        return _Line(text, {text_column: text}, f"longer than {MAX_LINE_BYTES} bytes; this is its beginning")
    if line_format == TEXT or (line_format == AUTO and not text.lstrip().startswith("{")):
        return _Line(text, {text_column: text})
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _Line(text, {text_column: text}, f"not a JSON object: {error}")
    if not isinstance(row, dict):
        return _Line(text, {text_column: text}, "not a JSON object: another value")
    return _Line(text, row)
