"""YAML text to plain values, with the line of every key. Only here and in dialect.py is ``yaml`` imported.

Stricter than YAML: one document, text keys, no key twice, no explicit tags but ``!!str``, no merge keys, and bounds on
size, depth and node count, so that no file can take the process down.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import yaml

from distilbatch.config.dialect import MERGE_TAG, STR_TAG, Dumper, Loader, YamlSyntaxError, check_bounds
from distilbatch.config.fields import Location

__all__ = [
    "Document",
    "Origin",
    "describe",
    "parse_setting",
    "parse_yaml",
    "substitute_environment",
    "to_yaml",
]

MAX_BYTES = 1 << 20

_REFERENCE = re.compile(r"\$\{(?:env:([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\})?")


@dataclass(frozen=True, order=True, slots=True)
class Origin:
    """Where a value was written.

    Args:
        rank: Position of the file or override among all.
        line: From 1; 0 where there are no lines.
        label: What a message calls the place: a file name, ``-s sink.path``, or nothing.
    """

    rank: int
    line: int
    label: str

    def __str__(self) -> str:
        """``job.yaml:14``."""
        return f"{self.label}:{self.line}" if self.line else self.label


@dataclass(slots=True)
class Document:
    """A value and what is known about it.

    Args:
        value: Mappings, lists and scalars.
        origins: The place of every value; the root is ``()``.
        problems: Place, key path and message of what was refused so far.
        references: By key path, the text as written of every value that refers to the environment.
    """

    value: Any
    origins: dict[Location, Origin] = field(default_factory=dict)
    problems: list[tuple[Origin, Location, str]] = field(default_factory=list)
    references: dict[Location, str] = field(default_factory=dict)

    def origin(self, path: Location) -> Origin:
        """The place of ``path``, or of the nearest section around it."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins[path]

    def refuse(self, path: Location, message: str) -> None:
        """Note a problem at ``path``."""
        self.problems.append((self.origin(path), path, message))


def parse_yaml(text: str, *, label: str, rank: int, lines: bool = True) -> Document:
    """Parse one YAML document; what is well-formed but refused is noted in ``problems``.

    Args:
        text: The document.
        label: What messages call it.
        rank: Its position among all files and overrides.
        lines: Whether line numbers help the reader.

    Raises:
        YamlSyntaxError: No value could be made of the text.
    """
    try:
        loader = Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = {"line": mark.line + 1, "column": mark.column + 1} if mark else {}
        words = [error.context, error.problem] if str(error.problem).startswith("but ") else [error.problem]
        raise YamlSyntaxError(", ".join(word for word in words if word), **place) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise YamlSyntaxError(f"character U+{code:04X} is not allowed", line=line) from None
    except YamlSyntaxError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # chr() of an escape such as "\U99999999"
        raise YamlSyntaxError(str(error)) from None
    document = Document(None, {(): Origin(rank, 0, label)})
    if node is not None:
        document.value = _Builder(loader, document, lines=lines).build(node, ())
    return document


def parse_setting(text: str, *, label: str, rank: int) -> Document:
    """Parse the value of a setting on a command line, as ``parse_yaml`` does a document.

    A comment is refused: there it is a part of the value that was meant, such as of the path ``out #1``.

    Raises:
        YamlSyntaxError: No value could be made of the text, or it holds a comment.
    """
    document = parse_yaml(text, label=label, rank=rank, lines=False)
    end = 0
    for token in yaml.scan(text, Loader=Loader):
        if "#" in text[end : token.start_mark.index]:
            raise YamlSyntaxError("'#' begins a comment")
        end = token.end_mark.index
    return document


class _Builder:
    def __init__(self, loader: Loader, document: Document, *, lines: bool) -> None:
        self.loader, self.document, self.lines = loader, document, lines
        self.root = document.origins[()]
        self.nodes = 0

    def build(self, node: yaml.Node, path: Location) -> Any:  # noqa: ANN401 - any YAML value
        self.nodes += 1
        check_bounds(self.nodes, len(path), node)
        if path and path not in self.document.origins:
            self.document.origins[path] = self._origin(node)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag != self.loader.resolve(type(node), None, True):  # type: ignore[no-untyped-call]
            return self._refuse(node, path, f"the tag {_short(node.tag)} is not supported")
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._mapping(node, path)

    def _mapping(self, node: yaml.Node, path: Location) -> dict[str, Any]:
        value: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            line = key_node.start_mark.line + 1
            if key is None:
                continue
            if key in value:
                self._refuse(key_node, (*path, key), f"key given twice, first on line {first_lines[key]}")
                continue
            first_lines[key] = line
            inner = (*path, key)
            self.document.origins[inner] = self._origin(key_node)
            value[key] = self.build(value_node, inner)
        return value

    def _key(self, node: yaml.Node, path: Location) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._refuse(node, path, "expected a text key, found a list or mapping; text with {{ }} needs quotes")
            return None
        if node.tag == MERGE_TAG:
            self._refuse(node, path, "merge keys ('<<') are not supported; put the shared part in a file of its own")
            return None
        if node.tag != STR_TAG:
            self._refuse(node, path, f"expected a text key, found {node.value[:40] or 'nothing'}; put it in quotes")
            return None
        key: str | None = self._scalar(node, path)
        return key

    def _scalar(self, node: yaml.ScalarNode, path: Location) -> Any:  # noqa: ANN401 - any YAML scalar
        if node.tag == STR_TAG or (node.tag == MERGE_TAG and node.value == "<<"):  # as a value it is text
            if any("\ud800" <= character <= "\udfff" for character in node.value):
                return self._refuse(node, path, "half a surrogate pair is not text")
            return node.value
        if node.tag != self.loader.resolve(yaml.ScalarNode, node.value, (True, False)):  # type: ignore[no-untyped-call]
            return self._refuse(node, path, f"the tag {_short(node.tag)} is not supported")
        try:
            return self.loader.construct_object(node)
        except (ValueError, OverflowError) as error:  # a number of thousands of digits
            return self._refuse(node, path, f"{str(error)[:80]}; put text in quotes")

    def _refuse(self, node: yaml.Node, path: Location, message: str) -> None:
        self.document.problems.append((self._origin(node), path, message))

    def _origin(self, node: yaml.Node) -> Origin:
        line = node.start_mark.line + 1 if self.lines else 0
        return Origin(self.root.rank, line, self.root.label)


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")[:60]


def substitute_environment(document: Document, environ: Mapping[str, str]) -> None:
    """Replace ``${env:NAME}`` and ``${env:NAME:-default}`` in all text values, in place.

    Substitution comes after parsing, so a variable can never add keys; its value is not looked at again, and
    messages show the reference instead. As in a shell, the default also stands in for an empty variable.
    """
    document.value = _substituted(document, document.value, (), environ)


def _substituted(document: Document, value: Any, path: Location, environ: Mapping[str, str]) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _substituted(document, item, (*path, key), environ) for key, item in value.items()}
    if isinstance(value, list):
        return [_substituted(document, item, (*path, index), environ) for index, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value

    def fill(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name is None:
            known = "${env:NAME} or ${env:NAME:-default}"
            document.refuse(path, f"unknown reference in {describe(value)}; expected {known}")
            return match[0]
        if found := environ.get(name, ""):
            return found
        if default is None and name not in environ:
            document.refuse(path, f"the environment variable {name} is not set")
        return default or ""

    document.references[path] = value
    return _REFERENCE.sub(fill, value)


def to_yaml(value: object) -> str:
    """Write mappings, lists and scalars as a YAML document, keys in the order they have."""
    text: str = yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def describe(value: object) -> str:
    """Name a YAML value in an error message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date):
        return f"the date {value.isoformat()}"
    if isinstance(value, (int, float)):
        return f"the number {repr(value)[:40]}"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return "a mapping" if isinstance(value, Mapping) else "a list"
