"""What `lepton predict` shows: headings are whole, lines fit, and what is left out is said."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lepton.cli._preview import preview

pa = pytest.importorskip("pyarrow")

CLASSES = ["Tech-support", "Craft-repair", "[b]Sales[/b]", "Exec-managerial"]
PROBABILITIES = [f"occupation_probability_{word}" for word in CLASSES]
TABLE = pa.table(
    {
        "id": list(range(30)),
        "occupation": ["Craft-repair"] * 30,
        **{name: [1 / 3] * 30 for name in PROBABILITIES},
        "price": [1234.5678] * 30,
    }
)


def printed(width: int, plain: bool = False) -> list[str]:
    shown = preview(TABLE, width, PROBABILITIES)
    if plain:
        shown.box = None
    out = io.StringIO()
    Console(file=out, width=width).print(shown)
    return out.getvalue().splitlines()


def headings(lines: list[str]) -> list[str]:
    """Join the lines of the headings, column by column."""
    last = next(place for place, line in enumerate(lines) if line.startswith("┡"))
    rows = [[cell.strip() for cell in line.strip("┃").split("┃")] for line in lines[2:last]]
    return ["".join(cells) for cells in zip(*rows, strict=True)]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("plain", [False, True])
def test_headings_are_whole_and_lines_fit(width: int, plain: bool) -> None:
    lines = printed(width, plain)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    if not plain:
        shown = headings(lines)
        assert [name for name in TABLE.column_names if name in shown] == shown
        missing = [name for name in TABLE.column_names if name not in shown]
        bottom = next(place for place, line in enumerate(lines) if line.startswith("└"))
        words = "".join(lines[bottom:]).replace(" ", "")
        assert "10morerows" in words
        assert (f"{len(missing)}morecolumn" in words) == bool(missing)


def test_probabilities_give_way_to_what_is_predicted() -> None:
    assert headings(printed(40)) == ["id", "occupation", "price"]
    assert headings(printed(60)) == ["id", "occupation", *PROBABILITIES[:2], "price"]
    assert headings(printed(200)) == TABLE.column_names
