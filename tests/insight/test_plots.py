"""Interactive plots hold their numbers, stand still without a script, and let no text of a user run."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lepton.errors import ConfigurationError
from lepton.insight import (
    Card,
    Code,
    Flag,
    Fold,
    Gallery,
    Grid,
    Heading,
    Matrix,
    Plot,
    Section,
    Table,
    TableCell,
    TableRow,
    Trace,
    write_report,
)
from lepton.insight.page._svg import log_ticks, nice_ticks, plot_svg
from tests.insight.test_report import EVIL, Page

NAN = float("nan")


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(stream, "PNG")
    return stream.getvalue()


def evil_blocks() -> tuple[object, ...]:
    trace = Trace(EVIL, [1.0, 2.0], [3.0, NAN], "points", (EVIL, "</script>"))
    plot = Plot(EVIL, EVIL, EVIL, (trace, Trace("b", [1.0], [2.0])), EVIL, marks=((1.0, EVIL),))
    row = TableRow(TableCell(EVIL), (TableCell(EVIL, EVIL, bars=(1.0, 2.0)),))
    matrix = Matrix(EVIL, (EVIL,), (EVIL,), ((EVIL,),), ((0.5,),), EVIL, EVIL)
    gallery = Gallery(EVIL, (Card(((EVIL, png()),), ((EVIL, "worse"),)),))
    inner = (Table(EVIL, (EVIL,), (row,)), matrix, gallery, Heading(EVIL), Code(EVIL, EVIL), Flag(EVIL))
    return (Grid((plot,)), Fold(EVIL, inner))


@pytest.fixture(scope="module")
def evil_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "r.html"
    write_report(path, EVIL, [Section(EVIL, evil_blocks())])  # type: ignore[arg-type]
    return path.read_text(encoding="utf-8")


def test_what_users_wrote_stays_text(evil_page: str) -> None:
    page = Page(evil_page.replace("<script>", "<script >", 1))
    assert len(page.all("script")) == 1 and evil_page.count("<script") == 1
    assert len(page.all("img")) == 1 and "onerror" not in page.all("img")[0]
    handlers = [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert handlers == []


def test_the_policy_allows_this_script_and_no_other(evil_page: str) -> None:
    (script,) = re.findall(r"<script>(.*)</script>", evil_page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', evil_page)
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "unsafe-eval" not in policy


def test_a_page_without_plots_has_no_script(tmp_path: Path) -> None:
    text = write_report(tmp_path / "r.html", "t", [Section("", ('<figure class="plot" data-plot="">',))]).read_text()
    assert "<script" not in text and "script-src" not in text


def test_a_plot_carries_its_numbers(evil_page: str) -> None:
    (figure,) = (f for f in Page(evil_page).all("figure") if "data-plot" in f)
    told = json.loads(str(figure["data-plot"]))
    assert told["traces"][0] == {
        "name": EVIL, "kind": "points", "x": [1, 2], "y": [3, None], "labels": [EVIL, "</script>"], "shown": True,
    }  # fmt: skip


def test_traces_of_unequal_length_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="equally long, but are 2, 1 and 0"):
        Trace("a", [1.0, 2.0], [1.0])


@pytest.mark.parametrize("kind", ["line", "points", "bars"])
@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [NAN, NAN, NAN], [0.0, 1e-9, 1e9], [-1.0, 0.0, 5.0], [2.0]])
@pytest.mark.parametrize("log", [False, True])
def test_what_is_drawn_lies_inside(kind: str, values: list[float], log: bool) -> None:
    plot = Plot("t", "x", "y", (Trace("a", list(range(len(values))), values, kind),), log=log)  # type: ignore[arg-type]
    svg = plot_svg(plot)
    assert "nan" not in svg and "inf" not in svg
    places = re.findall(r'(?:points="|cy="|<rect x="[-\d.]+" y=")([-\d., ]*)"', svg)
    downs = [float(pair.split(",")[-1]) for group in places for pair in group.split()]
    assert all(-1 <= down <= 261 for down in downs)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(3, 8))
def test_ticks_are_round_few_and_inside(low: float, width: float, count: int) -> None:
    ticks = nice_ticks(low, low + width, count)
    assert 1 <= len(ticks) <= 2 * count + 2
    assert all(low - 1e-6 * width <= tick <= low + width + 1e-6 * width for tick in ticks)
    assert all(float(tick).is_integer() for tick in nice_ticks(low, low + width, count, whole=True))


@given(st.floats(-8, 8), st.floats(0.01, 12))
def test_logarithmic_ticks_are_few_and_inside(low: float, width: float) -> None:
    ticks = log_ticks(low, low + width)
    assert 1 <= len(ticks) <= 12
    assert all(low - 1e-6 <= tick <= low + width + 1e-6 for tick in ticks)
