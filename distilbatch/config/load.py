"""Files, environment and overrides to one checked ``Config``; every problem of all of them in one error."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distilbatch.config.dialect import YamlSyntaxError
from distilbatch.config.document import (
    MAX_BYTES,
    Document,
    Origin,
    parse_setting,
    parse_yaml,
    substitute_environment,
    to_yaml,
)
from distilbatch.config.fields import Location
from distilbatch.config.models import Config
from distilbatch.config.problems import key_text, problems_of
from distilbatch.errors import ConfigError

__all__ = ["load_config", "load_config_files", "parse_options", "show_config"]

ConfigSource = Path | str | Mapping[str, Any]
STDIN = "-"


def load_config(
    source: ConfigSource, *, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Config:
    """Read, merge and check a config. Relative paths in it stay relative to the working directory.

    Args:
        source: Path of a YAML file, ``-`` for standard input, or the mapping that such a file would hold.
        overrides: ``section.key=value`` settings that win over the file; values are YAML, list entries go by
            index (``annotate.0.top_k=5``).
        environ: Variables for ``${env:NAME}`` and ``${env:NAME:-default}``; None takes those of the process.

    Raises:
        ConfigError: Anything is wrong: one line for each problem, with file, line and key path.
    """
    return load_config_files([source], overrides=overrides, environ=environ)


def load_config_files(
    sources: Sequence[ConfigSource], *, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Config:
    """Like ``load_config`` for several files: later ones win key by key; lists are replaced as a whole.

    Raises:
        ConfigError: Anything is wrong in any of them.
    """
    return _load(sources, overrides, environ)[0]


def show_config(
    sources: Sequence[ConfigSource], *, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> str:
    """Return the merged config with every default, as YAML that loads to the same config.

    References to the environment stand as they were written: what variables hold may be secret.

    Raises:
        ConfigError: Anything is wrong in any of the sources.
    """
    config, document = _load(sources, overrides, environ)
    shown = config.model_dump(mode="json")
    for path, text in document.references.items():
        holder: Any = shown
        *sections, last = path
        for part in sections:
            if not isinstance(holder[part], (dict, list)):  # {model: text} is shown as the text that stands for it
                last = part
                break
            holder = holder[part]
        holder[last] = text
    return to_yaml(shown)


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` settings of one task, as ``-o`` takes them; values are YAML, and the last of a key wins.

    Raises:
        ConfigError: Some of them are malformed: one line for each problem.
    """
    values: dict[str, Any] = {}
    problems: list[tuple[Origin, Location, str]] = []
    for rank, option in enumerate(options):
        key, equals, text = option.partition("=")
        key = key.strip()
        origin = Origin(rank, 0, f"-o {key[:120]}")
        if not equals or not key.isidentifier():
            problems.append((origin, (), "expected KEY=VALUE"))
            continue
        try:
            document = parse_setting(text, label=origin.label, rank=rank)
        except YamlSyntaxError as error:
            message = f"not a YAML value: {error.message}; put text with special characters in quotes"
            problems.append((origin, (), message))
            continue
        values[key] = document.value
        problems += [(place, (), message) for place, _, message in document.problems]
    if problems:
        raise _error(problems)
    return values


def _load(
    sources: Sequence[ConfigSource], overrides: Sequence[str], environ: Mapping[str, str] | None
) -> tuple[Config, Document]:
    if not sources:
        raise ConfigError("no config file given")
    problems: list[tuple[Origin, Location, str]] = []
    merged = Document({}, {(): Origin(0, 0, _label(sources[0]))})
    for rank, source in enumerate(sources):
        document = _read(source, rank=rank)
        if not isinstance(document.value, dict):
            if not document.problems:
                document.refuse((), "expected a mapping with 'source', 'annotate' and 'sink' at the top of the file")
            problems += document.problems
            continue
        _merge(merged, document)
    if problems:  # a file is missing from the picture: checking the rest would blame keys it may well hold
        raise _error(problems + merged.problems)
    for rank, override in enumerate(overrides, start=len(sources)):
        _override(merged, override, rank=rank)
    substitute_environment(merged, os.environ if environ is None else environ)
    refused = {path for _, path, _ in merged.problems}
    try:
        config = Config.model_validate(merged.value)
    except ValidationError as error:
        for path, message in problems_of(error, Config, references=merged.references):
            if path not in refused:
                merged.refuse(path, message)
        raise _error(merged.problems) from None
    if merged.problems:
        raise _error(merged.problems)
    return config, merged


def _error(problems: list[tuple[Origin, Location, str]]) -> ConfigError:
    lines = []
    for origin, path, message in sorted(problems, key=lambda problem: problem[0]):
        place, key = str(origin), key_text(path)
        parts = [place, key, message] if place != f"-s {key}" else [place, message]
        lines.append(": ".join(part for part in parts if part))
    return ConfigError("\n".join(dict.fromkeys(lines)))


def _label(source: ConfigSource) -> str:
    if isinstance(source, Mapping):
        return ""
    return "standard input" if source == STDIN else str(source)


def _read(source: ConfigSource, *, rank: int) -> Document:
    """Read one source; what is wrong with it as a whole is noted in the document, whose value is then None."""
    label = _label(source)
    if isinstance(source, Mapping):
        return Document(_plain(source), {(): Origin(rank, 0, label)})
    failed = Document(None, {(): Origin(rank, 0, label)})
    try:
        if source == STDIN and sys.stdin is None:
            failed.refuse((), "closed: there is nothing to read")
            return failed
        if source == STDIN:
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(source).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            failed.refuse((), f"larger than {MAX_BYTES} bytes; is this a config?")
            return failed
        return parse_yaml(data.decode("utf-8-sig"), label=label, rank=rank)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        failed.problems.append((Origin(rank, line, label), (), "not UTF-8 text"))
    except FileNotFoundError:
        failed.refuse((), "no such file")
    except IsADirectoryError:
        failed.refuse((), "a folder, not a file")
    except (OSError, ValueError) as error:
        if isinstance(error, YamlSyntaxError):
            column = f"column {error.column}: " if error.column else ""
            failed.problems.append((Origin(rank, error.line, label), (), f"{column}not valid YAML: {error.message}"))
        else:
            failed.refuse((), getattr(error, "strerror", None) or str(error))
    return failed


def _plain(value: object) -> Any:  # noqa: ANN401 - any YAML value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _merge(base: Document, over: Document) -> None:
    """Lay ``over`` on ``base`` in place: mappings are merged key by key, anything else is replaced."""
    base.value = _merged(base, over, (), base.value, over.value)
    base.problems += over.problems
    base.origins |= over.origins


def _merged(base: Document, over: Document, path: Location, old: Any, new: Any) -> Any:  # noqa: ANN401
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {
            key: _merged(base, over, (*path, key), old[key], item) if key in old else item for key, item in new.items()
        }
    _forget(base, path)
    return new


def _forget(document: Document, path: Location) -> None:
    """Drop the places of everything below ``path``, which is about to be replaced."""
    for known in [known for known in document.origins if known[: len(path)] == path and known]:
        del document.origins[known]


def _override(document: Document, override: str, *, rank: int) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    origin = Origin(rank, 0, f"-s {key[:120]}")
    parts = key.split(".")
    if not equals or not all(parts):
        document.problems.append((origin, (), "expected section.key=value"))
        return
    try:
        value = parse_setting(text, label=origin.label, rank=rank)
        path = _put(document, parts, value.value, origin=origin)
    except YamlSyntaxError as error:
        message = f"not a YAML value: {error.message}; put text with special characters in quotes"
        document.problems.append((origin, (), message))
        return
    except LookupError as error:
        document.problems.append((origin, (), str(error.args[0])))
        return
    _forget(document, path)
    document.origins |= {(*path, *below): place for below, place in value.origins.items()}
    document.problems += [(place, (*path, *below), message) for place, below, message in value.problems]


def _put(document: Document, parts: Sequence[str], value: object, *, origin: Origin) -> Location:
    """Store ``value`` under dotted ``parts``, making missing sections; return its key path.

    Raises:
        LookupError: A part asks for something inside a single value, or for a list entry that is not there.
    """
    holder: Any = document.value
    path: Location = ()
    key: Any
    for depth, part in enumerate(parts):
        key = _index(holder, part, path) if isinstance(holder, list) else part
        path = (*path, key)
        if depth == len(parts) - 1:
            break
        if isinstance(holder, dict) and holder.get(part) is None:
            holder[part] = {}
            document.origins[path] = origin
        holder = holder[key]
        if not isinstance(holder, (dict, list)):
            raise LookupError(f"'{key_text(path)}' is a single value and has no '{parts[depth + 1]}'")
    holder[path[-1]] = value
    return path


def _index(entries: list[Any], part: str, path: Location) -> int:
    if part.isdecimal() and len(part) < 6 and int(part) < len(entries):
        return int(part)
    valid = f"expected an index from 0 to {len(entries) - 1}" if entries else "the list is empty"
    raise LookupError(f"no entry '{part}' in '{key_text(path)}'; {valid}")
