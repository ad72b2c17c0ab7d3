"""Write `docs/configuration.md` from the models that check a configuration:  python docs/generate_configuration.py

The models are made from the constructors that own the options, so the page cannot say what the code does not do. A test
compares the page with what this file makes.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from lepton.config import (
    AdapterSection,
    AddedTasks,
    Config,
    Custom,
    InputSection,
    Section,
    SourceSection,
    StartSection,
    added_methods,
    argument_texts,
    compositions,
    dump_yaml,
    methods,
    task_kinds,
    trunks,
)
from lepton.data import Augment

PAGE = Path(__file__).with_name("configuration.md")

INTRODUCTION = """\
# Configuration

*Made by `python docs/generate_configuration.py` from the code that reads a configuration. A test holds the two
together.*

A run is described by one YAML file with six sections: rows, tasks, trunk, where it starts, balance, training. Only
`data.source` and `tasks` must be there.

```yaml
data:
  source: houses.csv
  ignore: [id]
  split: {method: group, column: street, test: 0.2}
tasks:
  price: {type: regression, loss: huber}
  sold: {type: classification, priority: 2.0}
balance: {method: cagrad, c: 0.4, log: true}
training: {max_epochs: 40, learning_rate: 5e-4}
seed: 1
```

`lepton init --from houses.csv --target price --target sold` writes a commented file, `lepton train FILE` trains it, and
`lepton init --schema` prints the JSON schema with which an editor completes keys and marks mistakes. Any value can be
changed on the command line, `lepton train FILE training.max_epochs=5`. In Python the same names are the arguments of
`lepton.fit`: `balance={"method": "cagrad", "c": 0.4}`.

An unknown key is an error that names the line and the nearest right key. What is left out is decided from the rows, and
a run's own `config.yaml` says how.

**Short forms.** `tasks: [price, sold]` is a list of columns whose kinds are inferred; `price: regression` gives the
kind only; `trunk: tabular` and `balance: mgda` give the name only; `inputs: {age: number}` the kind only.
`trunk: {hf: folder}` is `{type: hugging_face, folder: folder}`, and takes its other keys, too.
"""

BALANCE = """\
`method` chooses the method, and its options stand beside it. The other keys are the same for all of them: the view of
the gradients, and the compositions, which wrap the method. What each method does to `loss_weight`, and which one to
try, is said in [Balancers](balancers.md).
"""

COMPOSITIONS = """\
Each is a key of `balance`. Its value is `true`, one number (its first option), a list (its options in order) or a
mapping of them: `log: true`, `every: 4`, `smooth: 0.9`, `clip_weights: {min: 0.1, max: 10}`. Those that are given are
wrapped around the method in the order of this table, the first one innermost.
"""

CUSTOM = """\
A trunk or a head of your own, by its import path. It runs that file's code, so `lepton train` wants `--trust`, and
`lepton.load` wants `trust=True`. See [A trunk of your own](your_own_trunk.md).
"""


START = """\
By default a trunk begins with weights that the seed draws. `run: runs/houses` begins with those of another run, whose
rules of the inputs are then taken, too: the same columns, cut and numbered as before; leave `data.inputs` out.
Tasks of the same name, kind and classes keep their heads. `weights: trunk.safetensors` reads a file of tensors; what of
it fits and what does not is said, and less than half of the trunk is an error. A pre-trained text model is given as
`trunk: {hf: folder}`, and takes `freeze`, `layer_decay` and `adapter` as well. Once it is trained, a run needs none of
these files and folders any more. See [More tasks](more_tasks.md).
"""

ADDED = """\
`lepton add-task RUN task.yaml` reads a file of its own. What the inputs are is decided by the run. See
[More tasks](more_tasks.md#a-run-gets-more-tasks).
"""


# -- words --------------------------------------------------------------------------------------------------------
_WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path", Any: "see below"}


def type_words(hint: Any) -> str:
    """Return a type as a reader of YAML would say it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is type(None):
        return "null"
    if hint in _WORDS:
        return _WORDS[hint]
    if origin is Annotated:
        return type_words(arguments[0])
    if origin is Literal:
        return " ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        members = [type_words(argument) for argument in arguments if argument is not type(None)]
        return " or ".join(dict.fromkeys([*members, *(["null"] if type(None) in arguments else [])]))
    if origin is list:
        words = type_words(arguments[0])
        return f"list of {words}" if words.startswith("`") else f"list of {words}s"
    if origin is tuple:
        return f"list of {len(arguments)} {type_words(arguments[0])}s"
    if origin is dict:
        return f"mapping, name: {type_words(arguments[1])}" if arguments[1] is not Any else "mapping"
    assert inspect.isclass(hint) and issubclass(hint, Section), hint
    return "[one of a user's](#custom)" if hint is Custom else "section"


def default_words(field: FieldInfo) -> str:
    """Return a default as it would be written in YAML."""
    if field.is_required():
        return "*required*"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section) or value == {}:
        return ""
    if isinstance(value, dict):  # the short form: a name
        (value,) = value.values()
    return f"`{dump_yaml(value).split(chr(10))[0]}`"


def row(*cells: str) -> str:
    """Return one row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def sentence(text: str | None) -> str:
    """Return the meaning of an option, ended by a full stop."""
    text = (text or "").strip()
    text = re.sub(r"\bNone\b", "null", text)
    return text if not text or text.endswith((".", "?")) else f"{text}."


def table(fields: Mapping[str, FieldInfo], skip: Iterable[str] = ()) -> Iterator[str]:
    """Return a table of options."""
    yield row("key", "type", "default", "meaning")
    yield "|---|---|---|---|"
    for name, field in fields.items():
        if name not in skip:
            words = type_words(field.annotation) if field.discriminator is None else "text or section"
            yield row(f"`{field.alias or name}`", words, default_words(field), sentence(field.description))


def options(section: type[Section], skip: Iterable[str]) -> Iterator[str]:
    """Return the table of a section's own options, or a sentence if it has none."""
    own = {name: field for name, field in section.model_fields.items() if name not in set(skip)}
    if own:
        yield from table(own)
    else:
        yield "It has no options of its own."


# -- parts --------------------------------------------------------------------------------------------------------
def field_of(name: str) -> FieldInfo:
    """Return a field of the whole configuration."""
    return Config.model_fields[name]


def section_type(field: FieldInfo) -> type[Section]:
    """Return the one section that a field holds."""
    assert inspect.isclass(field.annotation) and issubclass(field.annotation, Section)
    return field.annotation


def by_tag(union: Any, tag: str) -> dict[str, type[Section]]:
    """Return the members of a union of sections, by the value of the key that tells them apart."""
    return {member.model_fields[tag].default: member for member in get_args(union)}


def shared_keys(sections: Iterable[type[Section]]) -> list[str]:
    """Return the keys that all of these sections have."""
    first, *others = [list(section.model_fields) for section in sections]
    return [key for key in first if all(key in keys for keys in others)]


def parameter_table(owner: Any, skip: Iterable[str] = ()) -> Iterator[str]:
    """Return a table of a constructor's parameters."""
    texts = argument_texts(owner)
    yield row("key", "default", "meaning")
    yield "|---|---|---|"
    for parameter in inspect.signature(owner).parameters.values():
        if parameter.name not in skip:
            given = parameter.default is not inspect.Parameter.empty
            default = f"`{dump_yaml(parameter.default).split(chr(10))[0]}`" if given else "*required*"
            yield row(f"`{parameter.name}`", default, sentence(texts.get(parameter.name)))


def top() -> Iterator[str]:
    """The keys of the file."""
    yield "## The file"
    yield ""
    yield from table(Config.model_fields)


def data() -> Iterator[str]:
    """The section `data`, the split and the augmentation."""
    section = section_type(field_of("data"))
    yield from ("## `data`", "", sentence(section.__doc__), "")
    yield from table(section.model_fields)
    kinds = type_words(InputSection.model_fields["kind"].annotation)
    yield from ("", f"Kinds of columns, in `inputs` and `kinds`: {kinds}. [Tables](tables.md) says what they do.", "")
    yield from ("### `data.split`", "")
    yield from table(section_type(section.model_fields["split"]).model_fields)
    mixture = get_args(section.model_fields["mixture"].annotation)[0]
    for part, key in ((SourceSection, "sources.NAME"), (mixture, "mixture")):
        yield from ("", f"### `data.{key}`", "")
        yield from table(part.model_fields)
    yield from ("", "### `data.augment`", "", inspect.getdoc(Augment).split("\n")[0], "")
    yield "`false` switches it off, a mapping changes it:"
    yield ""
    yield from parameter_table(Augment)


def tasks() -> Iterator[str]:
    """The section `tasks`."""
    union = get_args(get_args(field_of("tasks").annotation)[1])[0]
    sections = {name: by_tag(union, "type")[name] for name in task_kinds()}
    shared = [key for key in shared_keys(sections.values()) if key not in ("type", "missing")]
    yield from ("## `tasks`", "", "A mapping from the tasks' names to their options.", "", "### Every task", "")
    first = next(iter(sections.values()))
    yield row("key", "type", "default", "meaning")
    yield "|---|---|---|---|"
    kinds = " ".join(f"`{name}`" for name in [*sections, "auto"])
    yield row("`type`", kinds, "`auto`", "The kind of task; with `auto` it is inferred from the column.")
    yield from list(table({key: first.model_fields[key] for key in shared}))[2:]
    inferred = set(by_tag(union, "type")["auto"].model_fields)
    named = " ".join(f"`{key}`" for key in shared if key not in inferred)
    if named:
        yield from ("", f"A task whose kind is inferred takes no {named}: to give one, give its `type` as well.")
    for name, section in sections.items():
        yield from ("", f"### `type: {name}`", "", sentence(section.__doc__), "")
        yield from options(section, [*shared, "type"])
    yield from adapters()


def adapters() -> Iterator[str]:
    """The part `adapter` of a task."""
    yield from ("", "### `adapter` of a task", "", sentence(AdapterSection.__doc__), "")
    yield from table(AdapterSection.model_fields)


def start() -> Iterator[str]:
    """The section `start`."""
    yield from ("## `start`", "", START)
    yield from table(StartSection.model_fields)


def added() -> Iterator[str]:
    """The file of `lepton add-task`."""
    yield from ("## The file of `lepton add-task`", "", ADDED)
    yield from table(AddedTasks.model_fields)
    for name, section in added_methods().items():
        yield from ("", f"### add-task, `method: {{type: {name}}}`", "", sentence(section.__doc__), "")
        yield from options(section, ["type"])


def trunk_parts(section: type[Section]) -> dict[str, type[Section]]:
    """Return the sections inside of a trunk's, by their keys; some may be left out."""
    found = {}
    for key, field in section.model_fields.items():
        for hint in (field.annotation, *get_args(field.annotation)):
            if inspect.isclass(hint) and issubclass(hint, Section):
                found[key] = hint
    return found


def trunk() -> Iterator[str]:
    """The section `trunk`."""
    sections = by_tag(field_of("trunk").annotation, "type")
    yield from ("## `trunk`", "", "The shared part. With `type: auto`, the default, it follows from the inputs:")
    yield "a table gives `tabular`, one column of pictures `conv`, or `unet` if a task is a segmentation; both, or"
    yield "texts that are read as tokens, `mixed`; tasks for every word or token of one text `transformer`."
    for name in trunks():
        section = sections[name]
        parts = trunk_parts(section)
        yield from ("", f"### `type: {name}`", "", sentence(section.__doc__), "")
        yield from options(section, ["type", *parts])
        for key, part in parts.items():
            unless = "" if section.model_fields[key].default is not None else ", which is left out by default"
            yield from ("", f"and, under `{key}`{unless}:", "")
            yield from table(part.model_fields)
    yield from ("", "### `custom`", "", CUSTOM)
    yield from table(Custom.model_fields, skip=["type"])


def balance() -> Iterator[str]:
    """The section `balance`."""
    sections = by_tag(field_of("balance").annotation, "method")
    yield from ("## `balance`", "", BALANCE)
    yield row("key", "type", "default", "meaning")
    yield "|---|---|---|---|"
    yield row("`method`", " ".join(f"`{name}`" for name in sorted(sections)), "`equal`", "How the tasks are weighed.")
    first = next(iter(sections.values()))
    yield from list(table({key: first.model_fields[key] for key in ("gradients", "memory_budget")}))[2:]
    for name in sorted(sections):
        yield from ("", f"### `method: {name}`", "", sentence(sections[name].__doc__), "")
        needed = set(inspect.signature(methods()[name]).parameters) - set(sections[name].model_fields)
        if needed:
            yield f"It needs tensors ({', '.join(sorted(needed))}), which YAML cannot hold: for loops in Python."
            continue
        yield from options(sections[name], ["method", "gradients", "memory_budget", *compositions()])
    yield from ("", "### Compositions", "", COMPOSITIONS)
    for name, kind in sorted(compositions().items(), key=lambda item: item[1].nesting):
        yield from (f"#### `{name}`", "", sentence(inspect.getdoc(kind).split("\n")[0]), "")
        has_options = len(inspect.signature(kind).parameters) > 1
        yield from parameter_table(kind, skip=["balancer"]) if has_options else ["It has no options: `true`."]
        yield ""


def training() -> Iterator[str]:
    """The section `training`."""
    yield from ("## `training`", "", "The options of the loop, `lepton.Trainer`, and of its batches.", "")
    yield from table(section_type(field_of("training")).model_fields)


def make_page() -> str:
    """Return the whole page."""
    parts = [top(), data(), tasks(), trunk(), start(), balance(), training(), added()]
    return "\n\n".join([INTRODUCTION.rstrip(), *("\n".join(part).rstrip() for part in parts)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
