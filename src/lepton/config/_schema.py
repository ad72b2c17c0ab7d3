"""Checked models of options, derived from the constructors that own them.

A constructor already says which options there are, of what type, with which default and what they mean. Writing that
down a second time would make two truths, so the model of a section is made from the signature and the `Args:` of the
docstring. Parameters that YAML cannot write, such as modules and callbacks, are left out.
"""

from __future__ import annotations

import functools
import inspect
import operator
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from lepton.errors import nearest

__all__ = ["Section", "argument_texts", "arguments_of", "content_of", "section_of", "snake_case", "tagged"]

_PLAIN = (bool, int, float, str, Path, type(None))


class Section(BaseModel):
    """A part of a configuration: an unknown key is an error that offers the nearest one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            allowed = [field.alias or name for name, field in cls.model_fields.items()]
            for key in given:
                if key not in allowed:
                    words = f"unknown key {key!r}.{nearest(str(key), allowed)} Allowed here: {', '.join(allowed)}"
                    raise PydanticCustomError("unknown_key", "{words}", {"words": words, "key": key})
        return given


def content_of(value: Any) -> Any:
    """Return sections as what YAML and JSON can hold; what is None or NaN by default and still is, is left out."""
    if isinstance(value, Section):
        fields = type(value).model_fields
        found = {field.alias or name: (getattr(value, name), field.default) for name, field in fields.items()}
        return {key: content_of(item) for key, (item, default) in found.items() if not (_void(item) and _void(default))}
    if isinstance(value, Mapping):
        return {key: content_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [content_of(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _void(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def snake_case(name: str) -> str:
    """Return a class's name as it is written in YAML: `LearnedWeights` is `learned_weights`, `CAGrad` is `cagrad`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def argument_texts(owner: Any) -> dict[str, str]:
    """Return what the `Args:` or `Attributes:` of a docstring say, argument -> text in one line."""
    lines = inspect.cleandoc(owner.__doc__ or "").split("\n")
    found: dict[str, list[str]] = {}
    inside, current = False, ""
    for line in lines:
        if line in ("Args:", "Attributes:"):
            inside = True
        elif line and not line.startswith(" "):
            inside = False
        elif inside and (match := re.match(r"    (\w+)(?:, (\w+))?: (.*)", line)):
            current = match[1]
            found[current] = [match[3]]
        elif inside and current and line.strip():
            found[current].append(line.strip())
    return {name: " ".join(texts) for name, texts in found.items()}


def _plain_type(hint: Any) -> Any | None:
    """Return the part of a type that YAML can write, or None if there is none."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Tensor:
        return list[float] | list[list[float]]
    if hint is Any or hint in _PLAIN or origin is Literal:
        return hint
    if origin in (Union, types.UnionType):
        kept = [plain for argument in arguments if (plain := _plain_type(argument)) is not None]
        return functools.reduce(operator.or_, kept) if kept and kept != [type(None)] else None
    if not (inspect.isclass(origin) and issubclass(origin, (Iterable, Mapping))):
        return None
    inner = [_plain_type(argument) for argument in arguments if argument is not Ellipsis]
    if not inner or None in inner:
        return None
    return types.GenericAlias(dict, tuple(inner)) if issubclass(origin, Mapping) else types.GenericAlias(list, inner[0])


def section_of(
    owner: Any,
    *,
    name: str = "",
    skip: Iterable[str] = (),
    optional: Iterable[str] = (),
    extra: Mapping[str, tuple[Any, Any]] | None = None,
    base: type[Section] = Section,
) -> type[Section]:
    """Return the model of a constructor's options.

    Args:
        owner: a class or function.
        name: name of the model; that of the owner by default.
        skip: parameters that do not come from a configuration.
        optional: parameters without a default that may be left out, because the data says what they are.
        extra: further fields, name -> (type, default or `Field`).
        base: what the model inherits.
    """
    hints = get_type_hints(owner.__init__ if inspect.isclass(owner) else owner)
    texts = argument_texts(owner)
    fields: dict[str, Any] = dict(extra or {})
    for parameter in inspect.signature(owner).parameters.values():
        if parameter.name in skip or parameter.name in fields:
            continue
        hint = _plain_type(hints.get(parameter.name, Any))
        if hint is None:
            continue
        required = parameter.default is inspect.Parameter.empty
        default = None if required and parameter.name in optional else ... if required else parameter.default
        if isinstance(default, tuple):
            default = list(default)  # what YAML has, and what the type became
        if default is None:
            hint = hint | None
        fields[parameter.name] = (hint, Field(default, description=texts.get(parameter.name)))
    model: type[Section] = create_model(name or owner.__name__, __base__=base, __doc__=_first_line(owner), **fields)
    return model


def tagged(models: Sequence[type[Section]], tag: str) -> Any:
    """Return the union of models that one key tells apart."""
    return Annotated[functools.reduce(operator.or_, models), Field(discriminator=tag)]


def arguments_of(kind: type, section: Section) -> dict[str, Any]:
    """Return what a section says of a constructor's arguments."""
    parameters = inspect.signature(kind).parameters
    given = {name: getattr(section, name) for name in type(section).model_fields if name in parameters}
    return {name: value for name, value in given.items() if value is not None}


def _first_line(owner: Any) -> str:
    return (inspect.getdoc(owner) or "").split("\n")[0]
