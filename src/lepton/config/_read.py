"""Reading, checking and writing a configuration, and making the balancer and the tasks that it describes."""

from __future__ import annotations

import importlib
import inspect
import json
import reprlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from torch import nn

from lepton.config._balance import methods
from lepton.config._schema import Section, arguments_of, content_of
from lepton.config._sections import Config, Custom, task_kinds, trunks
from lepton.config._yaml import Source, dump_yaml, parse_yaml
from lepton.data import Kind, source_exists
from lepton.errors import ConfigurationError, nearest
from lepton.tasks import Task

__all__ = [
    "check_config",
    "checked",
    "config_yaml",
    "found_beside",
    "json_schema",
    "load_class",
    "make_task",
    "read_config",
]

_Kind = TypeVar("_Kind", bound=Section)

_SKIPPED_LOCATIONS = ("function-before", "function-after", "function-wrap")


def read_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file.

    A source, the folder of a trunk, or what a training starts from, with a relative path, is looked for in the current
    folder, and if it is not there, beside the file.

    Args:
        path: the file.
        overrides: `section.key=value`, the later ones win.

    Raises:
        ConfigurationError: with file and line, the wrong key or value, and the nearest right one.
    """
    source = parse_yaml(Path(path))
    for assignment in overrides:
        source.override(assignment)
    return check_config(found_beside(source.content, Path(path).parent), source)


def found_beside(content: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Return the content with the paths of what lies in the file's folder and not in the current one."""
    found = dict(content)
    for section, keys in (
        ("data", ("source", "val", "test")),
        ("trunk", ("folder", "hf")),
        ("start", ("run", "weights")),
    ):
        given = content.get(section)
        if isinstance(given, Mapping):
            told = {name: given[name] for name in keys if isinstance(given.get(name), str)}
            beside = {name: str(folder / value) for name, value in told.items() if not source_exists(value)}
            found[section] = {**given, **{name: path for name, path in beside.items() if source_exists(path)}}
    return found


def check_config(content: Mapping[str, Any], source: Source | None = None) -> Config:
    """Return the checked configuration.

    Args:
        content: nested mappings, as in YAML.
        source: where they were read, for messages.

    Raises:
        ConfigurationError: every fault, each with its place.
    """
    return checked(Config, content, source)


def checked(kind: type[_Kind], content: Mapping[str, Any], source: Source | None = None) -> _Kind:
    """Return the content of a file as what a model makes of it.

    Args:
        kind: the model.
        content: nested mappings, as in YAML.
        source: where they were read, for messages.

    Raises:
        ConfigurationError: every fault, each with its place.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = [_fault(dict(fault), content, source) for fault in error.errors(include_url=False)]
        raise ConfigurationError("\n".join(dict.fromkeys(faults))) from None


def _fault(fault: dict[str, Any], content: Mapping[str, Any], source: Source | None) -> str:
    path = [part for part in fault["loc"] if not str(part).startswith(_SKIPPED_LOCATIONS)]
    context = fault.get("ctx") or {}
    if "words" in context:  # a fault of the sections' own checks
        path += context["key"] if isinstance(context["key"], list) else [context["key"]]
        words = context["words"]
    elif fault["type"] == "union_tag_invalid":
        tag, allowed = context["tag"], context["expected_tags"].replace("'", "").split(", ")
        words = f"{tag!r} is not known.{nearest(str(tag), allowed)} Allowed: {', '.join(sorted(allowed))}"
        path.append(context["discriminator"].strip("'"))
    elif path and path[-1] == "[key]":
        path = path[:-2]
        words = f"the name {fault['input']!r} must be a word: put it in quotes"
    elif fault["type"] == "missing":
        words = "is missing"
    else:
        words = f"{fault['msg']}, but it is {reprlib.repr(fault['input'])}"
    place = "the configuration" if source is None else source.where(path)
    return f"{place}: {'.'.join(str(part) for part in _written(path, content))}: {words}."


def _written(path: list[Any], content: Any) -> list[Any]:
    """Return the path without the names of union members, which nobody wrote."""
    found = []
    for place, part in enumerate(path):
        if isinstance(content, Mapping) and part in content:
            content = content[part]
        elif place < len(path) - 1:
            continue
        found.append(part)
    return found


def config_yaml(config: Config) -> str:
    """Return a configuration as YAML that `read_config` reads back; what stands at its default is written, too."""
    return dump_yaml(content_of(config))


def json_schema() -> str:
    """Return the JSON schema of a configuration, for editors that complete and check YAML."""
    schema = Config.model_json_schema(by_alias=True)
    _allow_short_forms(schema)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=1)


def _allow_short_forms(schema: dict[str, Any]) -> None:
    """Let an editor accept what is accepted: a word in the place of a section that it names, a list of tasks."""
    sections, data = schema["properties"], schema["$defs"]["DataSection"]["properties"]
    short = [alias for kind in methods().values() for alias in kind.aliases]
    words = {"trunk": [*trunks(), "auto"], "balance": [*methods(), *short]}
    for name, allowed in words.items():
        sections[name] = {"anyOf": [{"enum": allowed}, sections[name]]}
    for method, kind in methods().items():
        schema["$defs"][kind.__name__]["properties"]["method"] = {"enum": [method, *kind.aliases], "default": method}
    sections["trunk"]["anyOf"].append(_short_trunk(schema["$defs"]["HuggingFaceTrunk"]))
    of_task = [{"enum": [*task_kinds(), "auto"]}, {"type": "null"}, sections["tasks"]["additionalProperties"]]
    named = {**sections["tasks"], "additionalProperties": {"anyOf": of_task}}
    sections["tasks"] = {"anyOf": [{"type": "array", "items": {"type": "string"}}, named]}
    for choice in data["inputs"]["anyOf"]:
        if "additionalProperties" in choice:
            choice["additionalProperties"] = {"anyOf": [{"enum": list(get_args(Kind))}, choice["additionalProperties"]]}
    data["split"] = {"anyOf": [{"type": "string"}, data["split"]]}


def _short_trunk(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of `{hf: folder, ...}`, for the section that it stands for."""
    options = {key: value for key, value in section["properties"].items() if key not in ("type", "folder")}
    folder = {**section["properties"]["folder"], "type": "string"}
    return {**section, "properties": {"hf": folder, **options}, "required": ["hf"]}


# -- objects ------------------------------------------------------------------------------------------------------
def make_task(
    name: str,
    section: Any,
    classes: Sequence[str] = (),
    *,
    vocabulary: int = 0,
    mels: int = 0,
    head: nn.Module | None = None,
    trust: bool = False,
) -> Task:
    """Return the task of one entry of the section `tasks`.

    Args:
        name: the task's name.
        section: its entry; the kind is known.
        classes: names of the classes, labels or characters, found in the data.
        vocabulary: size of the vocabulary, for tasks that predict tokens.
        mels: bands of the spectra, for tasks that predict them.
        head: the head that goes with the trunk, for tasks that need a special one; the section's own comes first.
        trust: whether a head may be imported.
    """
    kind = task_kinds()[section.type]
    options = {name: value for name, value in arguments_of(kind, section).items() if name != "head"}
    known = inspect.signature(kind).parameters
    options |= {name: list(classes) for name in ("classes", "labels", "characters") if name in known}
    options |= {name: value for name, value in (("vocabulary", vocabulary), ("mels", mels)) if name in known}
    if section.head is not None:
        head = load_class(section.head, trust=trust)
    if head is not None:
        options["head"] = head
    return kind(name=name, **options)


def load_class(section: Custom, *, trust: bool) -> nn.Module:
    """Import a module class of the user's and build it.

    Args:
        section: its import path and arguments.
        trust: whether code may be imported at all.

    Raises:
        ConfigurationError: without the trust flag, or if there is no such class, or if it takes other arguments.
    """
    if not trust:
        raise ConfigurationError(
            f"the configuration wants to import {section.class_!r}, which runs code: pass --trust (trust=True) if you "
            "know where it comes from."
        )
    module, colon, name = section.class_.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # as `python -m lepton` would have it, but a script of the environment has not
    if not colon:
        raise ConfigurationError(f"class is {section.class_!r}, but must be written package.module:Class.")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"class {section.class_!r} cannot be imported: {error}.") from error
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise ConfigurationError(f"class {section.class_!r} is not a torch module's.")
    try:
        inspect.signature(found).bind(**section.arguments)
    except TypeError as error:
        raise ConfigurationError(f"class {section.class_!r} does not take these arguments: {error}.") from error
    return found(**section.arguments)
