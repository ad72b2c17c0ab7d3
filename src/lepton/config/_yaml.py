"""YAML with line numbers, limits, and `key=value` overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lepton.errors import ConfigurationError

__all__ = ["Source", "dump_yaml", "parse_yaml"]

MAX_BYTES = 1_000_000
MAX_ALIASES = 100
MAX_DEPTH = 20
MAX_NODES = 100_000

_SHORT = {"balance": "method", "trunk": "type", "split": "method"}
"""Sections that may be written as one word, and the key that the word stands for."""


class Source:
    """A parsed file: its content, and the line of every key.

    Args:
        name: what messages call it.
        content: the values.
        node: the tree of YAML nodes, or None for an empty file.
    """

    def __init__(self, name: str, content: dict[str, Any], node: yaml.Node | None) -> None:
        self.name = name
        self.content = content
        self._node = node
        self._overridden: dict[tuple[str, ...], str] = {}

    def where(self, path: Sequence[Any]) -> str:
        """Return `file, line N` for a path of keys and list positions; parts that are not in the file are skipped."""
        for keys, override in self._overridden.items():
            if tuple(str(part) for part in path)[: len(keys)] == keys:
                return f"override {override!r}"
        node, line = self._node, 1
        for part in path:
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if key.value == str(part):
                        node, line = value, key.start_mark.line + 1
                        break
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
        return f"{self.name}, line {line}"

    def override(self, assignment: str) -> None:
        """Set one value, `section.key=value`; the value is read as YAML.

        Raises:
            ConfigurationError: it is no assignment, or leads through something that is no mapping.
        """
        keys, equals, value = assignment.partition("=")
        path = keys.strip().split(".")
        if not equals or not all(path):
            raise ConfigurationError(f"override {assignment!r} must be written key=value, as in training.max_epochs=5.")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            words = getattr(error, "problem", None) or error
            raise ConfigurationError(f"override {assignment!r}: the value is no YAML: {words}.") from error
        at = self.content
        for key in path[:-1]:
            if at.get(key) is None or (isinstance(at[key], str) and key in _SHORT):
                at[key] = {} if at.get(key) in (None, "auto") else {_SHORT[key]: at[key]}
            found = at[key]
            if not isinstance(found, dict):
                raise ConfigurationError(
                    f"override {assignment!r}: {key!r} is {found!r}, which has no keys: set the whole of it, as in "
                    f"'{key}={{{path[-1]}: {value}}}'."
                )
            at = found
        at[path[-1]] = parsed
        self._overridden[tuple(path)] = assignment


def parse_yaml(path: Path) -> Source:
    """Read a YAML file of limited size, depth and number of aliases, with no tags that make objects.

    Raises:
        ConfigurationError: it cannot be read, is no YAML, or is no mapping.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigurationError(f"{path} has {size} bytes; a configuration may have {MAX_BYTES}.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no UTF-8 text.") from error
    try:
        _check_limits(path, text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _check_node(path, node, {})
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ConfigurationError(f"{path}{line}: {error.problem or error}.") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: {error}.") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} must hold keys and values, such as `data:`, not {type(content).__name__}.")
    return Source(str(path), content, node)


def _check_limits(path: Path, text: str) -> None:
    aliases = depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        aliases += isinstance(event, yaml.AliasEvent)
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        if aliases > MAX_ALIASES or depth > MAX_DEPTH:
            what = (
                f"more than {MAX_ALIASES} aliases"
                if aliases > MAX_ALIASES
                else f"more than {MAX_DEPTH} levels of nesting"
            )
            raise ConfigurationError(f"{path}, line {event.start_mark.line + 1}: {what} are not allowed.")


def _check_node(path: Path, node: yaml.Node, sizes: dict[int, int]) -> int:
    """Refuse keys that stand twice, aliases within themselves, and aliases of aliases that unfold to a giant.

    Returns:
        How many nodes it has with every alias written out; `sizes` keeps it for those that were seen.
    """
    key = id(node)
    if sizes.get(key) == 0:
        raise ConfigurationError(f"{path}, line {node.start_mark.line + 1}: an alias stands within what it names.")
    if key not in sizes:
        sizes[key] = 0  # under way
        children = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            _refuse_twice(path, node)
            children = [value for _, value in node.value]
        sizes[key] = 1 + sum(_check_node(path, child, sizes) for child in children)
        if sizes[key] > MAX_NODES:
            words = f"aliases unfold to more than {MAX_NODES} values"
            raise ConfigurationError(f"{path}, line {node.start_mark.line + 1}: {words}.")
    return sizes[key]


def _refuse_twice(path: Path, node: yaml.MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigurationError(f"{path}, line {line}: a key must be a word.")
        if key.value in seen:
            raise ConfigurationError(
                f"{path}, line {line}: the key {key.value!r} stands there twice, first in line {seen[key.value]}."
            )
        seen[key.value] = line


def dump_yaml(content: Any) -> str:
    """Return values as YAML in the order given."""
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    return text
