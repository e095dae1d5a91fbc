"""The verb that annotates a stream: ``pipe``. Lines in, JSON Lines out as soon as they are ready; no Ray, no files."""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from distilbatch.cli.console import show_text
from distilbatch.cli.failures import verb
from distilbatch.cli.options import Debug, Revision
from distilbatch.errors import ConfigError, DataError
from distilbatch.startup import quick_imports, without_pandas

if TYPE_CHECKING:
    from distilbatch.engine.annotator import Annotator

PREDICTION = "prediction"
ERROR = "error"
_Parsed = tuple[dict[str, Any], str]
_NO_OPTIONS = {*("task", "model", "revision", "precision", "device", "name", "text_column", "max_batch_tokens")}
_BATCH_LINES = 512
_QUEUE_LINES = 4096


def pipe(  # noqa: PLR0913, PLR0917 - the options of the program
    model: Annotated[str, typer.Option("--model", metavar="DIR|ID", help="The checkpoint: a folder, or a hub id.")],
    task: Annotated[str, typer.Option("--task", help="What to do, as in a config.")] = "text-classification",
    revision: Revision = None,
    options: Annotated[
        list[str] | None,
        typer.Option("-o", "--option", metavar="KEY=VALUE", help="An option of the task: -o top_k=3."),
    ] = None,
    text_column: Annotated[str, typer.Option("--text", help="Key of the main text in JSON Lines.")] = "text",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="auto, float32, bfloat16, float16 or int8.")] = "auto",
    debug: Debug = False,
) -> None:
    """Annotate standard input: lines of text, or JSON Lines, to JSON Lines with a key 'prediction'.

    A line that cannot be read gets the key 'error' as well, and the others go on.
    """
    with verb(debug=debug), without_pandas():
        # Reading starts while torch is still being loaded.
        lines = _in_background(sys.stdin)
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
        for batch in _batches(lines):
            if not show_text("".join(_annotated(annotator, [_parse(line, text_column) for line in batch]))):
                return  # the reader has seen enough; the stream may never end


def _in_background(stream: TextIO) -> queue.Queue[str | None]:
    """Read lines in a thread; None marks the end."""
    lines: queue.Queue[str | None] = queue.Queue(_QUEUE_LINES)
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="replace")

    def read() -> None:
        try:
            for line in stream:
                lines.put(line)
        finally:
            lines.put(None)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    return lines


def _batches(lines: queue.Queue[str | None]) -> Iterator[list[str]]:
    """Whatever has arrived by now, one line at least: a slow stream is answered line by line."""
    while (line := lines.get()) is not None:
        batch = [line]
        while len(batch) < _BATCH_LINES and not lines.empty():
            following = lines.get()
            if following is None:
                yield batch
                return
            batch.append(following)
        yield batch


def _annotated(annotator: Annotator, parsed: Sequence[_Parsed]) -> Iterator[str]:
    """Answers to rows, as JSON Lines."""
    asked = [row for row, problem in parsed if not problem]
    try:
        answers = iter(annotator.explain(asked))
    except (ConfigError, DataError) as error:
        # A value of the wrong kind is the fault of its row alone.
        if len(parsed) > 1:
            for one in parsed:
                yield from _annotated(annotator, [one])
        else:
            yield _line({**asked[0], PREDICTION: None, ERROR: str(error)})
        return
    for row, unreadable in parsed:
        prediction, problem = (None, unreadable) if unreadable else next(answers)
        yield _line({**row, PREDICTION: prediction, **({ERROR: problem} if problem else {})})


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _parse(line: str, text_column: str) -> _Parsed:
    """A line as a row, and what is wrong with it: an object if it is a JSON object, else a text."""
    text = line.rstrip("\r\n")
    if not text.lstrip().startswith("{"):
        return {text_column: text}, ""
    try:
        row: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        return {text_column: text}, f"not a JSON object: {error}"
    return row, ""
