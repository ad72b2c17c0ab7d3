"""Configurations: YAML checked against models that are made from the constructors owning the options."""

from __future__ import annotations

from lepton.config._added import AddedTasks, added_methods, check_added, read_added
from lepton.config._balance import compositions, make_balancer, method_named, methods, wrappers
from lepton.config._read import (
    check_config,
    config_yaml,
    json_schema,
    load_class,
    make_task,
    read_config,
)
from lepton.config._schema import Section, argument_texts, content_of, snake_case
from lepton.config._sections import (
    AdapterSection,
    Config,
    Custom,
    DataSection,
    InputSection,
    SourceSection,
    StartSection,
    task_kinds,
    trunks,
)
from lepton.config._yaml import Source, dump_yaml

__all__ = [
    "AdapterSection",
    "AddedTasks",
    "Config",
    "Custom",
    "DataSection",
    "InputSection",
    "Section",
    "Source",
    "SourceSection",
    "StartSection",
    "added_methods",
    "argument_texts",
    "check_added",
    "check_config",
    "compositions",
    "config_yaml",
    "content_of",
    "dump_yaml",
    "json_schema",
    "load_class",
    "make_balancer",
    "make_task",
    "method_named",
    "methods",
    "read_added",
    "read_config",
    "snake_case",
    "task_kinds",
    "trunks",
    "wrappers",
]
