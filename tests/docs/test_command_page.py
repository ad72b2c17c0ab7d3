"""The page about the command line knows every verb that the program has."""

from __future__ import annotations

import re
from pathlib import Path

from typer.main import get_command

from lepton.cli._main import app

PAGE = Path(__file__).parents[2] / "docs" / "command_line.md"


def test_every_verb_stands_in_the_table_of_the_page() -> None:
    listed = set(re.findall(r"^\| `([\w-]+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    verbs = set(get_command(app).commands)  # type: ignore[attr-defined]  # a group: it has several
    assert verbs and not verbs - listed
