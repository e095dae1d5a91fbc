"""The verb that annotates a stream: ``pipe``. Lines in, JSON Lines out as soon as they are ready; no Ray, no files."""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from distilbatch.cli.console import show_text
from distilbatch.cli.failures import verb
from distilbatch.cli.options import Debug

_BATCH_LINES = 512
_QUEUE_LINES = 4096


def pipe(
    model: Annotated[Path, typer.Option("--model", metavar="DIR", help="The checkpoint folder.")],
    task: Annotated[str, typer.Option("--task", help="What to do, as in a config.")] = "text-classification",
    options: Annotated[
        list[str] | None,
        typer.Option("-o", "--option", metavar="KEY=VALUE", help="An option of the task: -o top_k=3."),
    ] = None,
    text_column: Annotated[str, typer.Option("--text", help="Key of the main text in JSON Lines.")] = "text",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="auto, float32, bfloat16 or float16.")] = "auto",
    debug: Debug = False,
) -> None:
    """Annotate standard input: lines of text, or JSON Lines, to JSON Lines with a key 'prediction'."""
    with verb(debug=debug):
        # Reading starts while torch is still being loaded.
        lines = _in_background(sys.stdin)
        from distilbatch.config.load import parse_options  # noqa: PLC0415
        from distilbatch.engine.annotator import Annotator  # noqa: PLC0415

        annotator = Annotator(
            task,
            model=model,
            device=device,
            precision=precision,
            text_column=text_column,
            **parse_options(options or ()),
        )
        for batch in _batches(lines):
            rows = [_parse(line, text_column) for line in batch]
            asked = [row for row in rows if "error" not in row]
            predictions = iter(annotator(asked) if asked else ())
            for row in rows:
                if "error" not in row:
                    row["prediction"] = next(predictions)
            show_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _in_background(stream: TextIO) -> queue.Queue[str | None]:
    """Read lines in a thread; None marks the end."""
    lines: queue.Queue[str | None] = queue.Queue(_QUEUE_LINES)

    def read() -> None:
        for line in stream:
            lines.put(line)
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


def _parse(line: str, text_column: str) -> dict[str, Any]:
    """A line as a row: an object if it is a JSON object, else a text."""
    text = line.rstrip("\r\n")
    if not text.lstrip().startswith("{"):
        return {text_column: text}
    try:
        row: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        return {text_column: text, "error": f"not a JSON object: {error}"}
    value = row.get(text_column)
    if value is not None and not isinstance(value, str):
        return {**row, "error": f"{text_column}: expected a text, found {type(value).__name__}"}
    return row
