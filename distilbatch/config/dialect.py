"""PyYAML as configs need it: within bounds, and with the core schema of YAML 1.2.

PyYAML follows version 1.1, where ``010`` is eight, ``1:30`` ninety and ``no`` false. Here they are ten and two texts.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from typing_extensions import override

__all__ = ["MERGE_TAG", "STR_TAG", "Dumper", "Loader", "YamlSyntaxError", "check_bounds"]

MAX_NODES = 10_000  # counted after aliases are followed: nine nested aliases of nine entries stand for 10^9 nodes
MAX_DEPTH = 40

_TAG = "tag:yaml.org,2002:"
STR_TAG, MERGE_TAG = _TAG + "str", _TAG + "merge"
_INT_TAG = _TAG + "int"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
# Section 10.3.2 of https://yaml.org/spec/1.2.2; what matches none of them is text, a date too. The merge key, which it
# has not, is known in order to be refused: who writes it expects something else of it than a key called '<<'.
_CORE_SCHEMA = [
    (_TAG + "null", re.compile(r"(?:null|Null|NULL|~|)\Z")),
    (_TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    (_INT_TAG, re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")),
    (_TAG + "float", re.compile(rf"(?:{_FLOAT})\Z")),
    (MERGE_TAG, re.compile(r"<<\Z")),
]
# By first character; None is any.
_RESOLVERS_OF_READING: dict[Any, Any] = {None: _CORE_SCHEMA}
_RESOLVERS_OF_WRITING: dict[Any, Any] = {**yaml.SafeDumper.yaml_implicit_resolvers, None: _CORE_SCHEMA}


class YamlSyntaxError(ValueError):
    """Text that is no YAML, or YAML beyond the bounds; ``line`` and ``column`` count from 1, 0 is unknown."""

    def __init__(self, message: str, *, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message, self.line, self.column = message, line, column


def _whole_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value, {"0o": 8, "0x": 16}.get(node.value[:2], 10))


_CONSTRUCTORS: dict[Any, Any] = {**yaml.SafeLoader.yaml_constructors, _INT_TAG: _whole_number}


class Loader(yaml.SafeLoader):
    """Composes nodes within the bounds; the recursion of PyYAML is as deep as the document."""

    yaml_implicit_resolvers = _RESOLVERS_OF_READING
    yaml_constructors = _CONSTRUCTORS
    depth = 0
    nodes = 0

    @override
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        check_bounds(self.nodes, self.depth, self.peek_event())  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


class Dumper(yaml.SafeDumper):
    """Puts a text in quotes that either version of YAML reads as something else."""

    yaml_implicit_resolvers = _RESOLVERS_OF_WRITING


def check_bounds(nodes: int, depth: int, place: yaml.Node | yaml.Event) -> None:
    """Refuse a document that is too large or too deep.

    Args:
        nodes: Values so far, those behind aliases included.
        depth: Levels around the present one.
        place: Where the reader is.

    Raises:
        YamlSyntaxError: It is.
    """
    line = place.start_mark.line + 1 if place.start_mark else 0
    if nodes > MAX_NODES:
        raise YamlSyntaxError(f"more than {MAX_NODES} values after following aliases", line=line)
    if depth > MAX_DEPTH:
        raise YamlSyntaxError(f"more than {MAX_DEPTH} levels deep", line=line)
