"""The page in a real browser: clicks, keys, zoom, schemes, no complaint, no request; skipped without Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lepton.insight import Grid, Plot, Section, SpeechExample, Table, TableCell, TableRow, Trace, write_report
from tests.insight.browser import Browser, find_chromium
from tests.insight.test_plots import evil_blocks

ALARM = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("needs chromium on the path: apt-get install chromium")
    found = Browser(program)
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    epochs = [float(i) for i in range(1, 21)]
    lines = (Trace("up", epochs, [x * x for x in epochs]), Trace("down", epochs, [1 / x for x in epochs]))
    cloud = Trace("rows", epochs, epochs, "points", tuple(f"{ALARM} {x:.0f}" for x in epochs))
    blocks = (
        Plot("Lines", "epoch", "value", lines, "caption", marks=((4.0, "kept"),)),
        Plot(ALARM, "x", "y", (cloud, Trace("guide", [1.0, 20.0], [1.0, 20.0], "guide"))),
        *evil_blocks(),
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    return write_report(path, ALARM, [Section("Plots", blocks)])  # type: ignore[arg-type]


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    browser.open(page)
    return browser


FIRST = "document.querySelector('figure.plot')"
STAGE = f"{FIRST}.querySelector('.stage')"
TIP = f"{STAGE}.querySelector('.tip')"


def labels(browser: Browser) -> list[str]:
    """The numbers along the horizontal axis of the first plot."""
    script = f"[...{STAGE}.querySelectorAll('text[text-anchor=middle]')].map(t => t.textContent)"
    found: list[str] = browser.run(script)
    return [text for text in found if text.isdigit()]


def box(browser: Browser) -> dict[str, float]:
    browser.run(f"{STAGE}.scrollIntoView({{block: 'center'}})")
    found: dict[str, float] = browser.run(f"{STAGE}.getBoundingClientRect().toJSON()")
    return found


def test_nothing_complains_asks_or_runs(opened: Browser) -> None:
    assert opened.complaints() == []
    assert opened.requests() == []
    assert opened.run("window.hacked === undefined")
    assert opened.run("document.querySelectorAll('.stage svg').length") == 3


def test_a_trace_is_put_away_and_back_by_its_button(opened: Browser) -> None:
    button = f"{FIRST}.querySelector('button.trace')"
    count = f"{STAGE}.querySelectorAll('path').length"
    assert (opened.run(f"{button}.getAttribute('aria-pressed')"), opened.run(count)) == ("true", 2)
    opened.run(f"{button}.focus()")
    opened.press(" ")
    opened.run(f"{button}.click()") if opened.run(count) == 2 else None
    assert (opened.run(f"{button}.getAttribute('aria-pressed')"), opened.run(count)) == ("false", 1)
    opened.run(f"{button}.click()")
    assert opened.run(count) == 2


def test_dragging_zooms_and_escape_and_double_click_show_all(opened: Browser) -> None:
    whole = labels(opened)
    area = box(opened)
    y = area["top"] + 100
    opened.drag(area["left"] + 0.3 * area["width"], area["left"] + 0.5 * area["width"], y)
    zoomed = labels(opened)
    assert zoomed != whole and all(5 <= int(text) <= 12 for text in zoomed)
    opened.run(f"{STAGE}.focus()")
    opened.press("Escape")
    assert labels(opened) == whole
    opened.press("+")
    assert labels(opened) != whole
    opened.run(f"{STAGE}.dispatchEvent(new MouseEvent('dblclick', {{bubbles: true}}))")
    assert labels(opened) == whole


def test_pointing_shows_the_values_of_all_traces(opened: Browser) -> None:
    area = box(opened)
    opened.mouse("mouseMoved", area["left"] + area["width"] - 13, area["top"] + 100)
    opened.settle()
    assert opened.run(f"{TIP}.innerText").split("\n") == ["epoch: 20", "up: 400", "down: 0.05"]


def test_the_arrow_keys_read_the_values_aloud(opened: Browser) -> None:
    opened.run(f"{STAGE}.focus()")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        opened.press(key)
    live = f"{FIRST}.querySelector('[aria-live]').textContent"
    assert opened.run(live) == "epoch: 2, up: 4, down: 0.5"
    opened.press("End")
    assert opened.run(live).startswith("epoch: 20")


def test_labels_of_points_stay_text(opened: Browser) -> None:
    opened.run("document.querySelectorAll('.stage')[1].focus()")
    opened.press("ArrowRight")
    tip = "document.querySelectorAll('.stage')[1].querySelector('.tip')"
    assert ALARM in opened.run(f"{tip}.textContent")
    assert opened.run("window.hacked === undefined && document.querySelectorAll('.tip img').length === 0")


def test_the_logarithmic_scale_has_its_button(opened: Browser) -> None:
    button = f"[...{FIRST}.querySelectorAll('button')].find(b => b.textContent === 'log scale')"
    before = opened.run(f"{STAGE}.querySelector('path').getAttribute('d')")
    opened.run(f"{button}.click()")
    assert opened.run(f"{button}.getAttribute('aria-pressed')") == "true"
    assert opened.run(f"{STAGE}.querySelector('path').getAttribute('d')") != before
    assert opened.complaints() == []


@pytest.mark.parametrize(("scheme", "other"), [("light", "dark"), ("dark", "light")])
def test_the_page_follows_the_readers_scheme_and_the_button(
    browser: Browser, page: Path, scheme: str, other: str
) -> None:
    browser.open(page, scheme=scheme)
    paper = "getComputedStyle(document.body).backgroundColor"
    light = {"light": "rgb(254, 254, 254)", "dark": "rgb(21, 23, 26)"}
    assert browser.run(paper) == light[scheme]
    browser.run("document.querySelector('button.scheme').click()")
    assert browser.run(paper) == light[other]


def test_a_phone_scrolls_only_inside_wide_parts(browser: Browser, page: Path) -> None:
    browser.open(page, width=390, height=800)
    assert browser.run("document.documentElement.scrollWidth <= 390")
    assert browser.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_edge_where_a_table_is_cut_off_is_shaded_until_its_end(
    browser: Browser, tmp_path: Path, scheme: str
) -> None:
    cells = tuple(TableCell("0.123") for _ in range(30))
    table = Table("Wide", tuple(f"column {i}" for i in range(30)), (TableRow(TableCell("row"), cells),))
    browser.open(write_report(tmp_path / "r.html", "r", [Section("", (table,))]), width=700, scheme=scheme)
    box = "document.querySelector('.scroll')"
    place = browser.run(f"(({{right, top}}) => [right, top])({box}.getBoundingClientRect())")
    paper = {"light": 254, "dark": 21}[scheme]
    cut = strip(browser, tmp_path, place)
    assert abs(cut[-1] - paper) > 30 > abs(cut[0] - paper)
    browser.run(f"{box}.scrollLeft = 1e6")
    assert set(strip(browser, tmp_path, place)) == {paper}
    browser.run(f"{box}.focus()")
    assert browser.run(f"document.activeElement === {box}")


def strip(browser: Browser, folder: Path, corner: tuple[float, float]) -> list[int]:
    """Return how bright the 20 pixels before a right upper corner are, where no text stands, from left to right."""
    image = pytest.importorskip("PIL.Image")
    browser.settle()
    browser.screenshot(folder / "shot.png")
    right, top = (int(number) for number in corner)
    with image.open(folder / "shot.png") as shot:
        row = shot.convert("RGB").crop((right - 20, top + 2, right, top + 3))
        return [row.getpixel((i, 0))[0] for i in range(20)]


def test_every_control_can_be_reached_by_keyboard(opened: Browser) -> None:
    script = "[...document.querySelectorAll('button, .stage, summary, .scroll, a')].every(e => e.tabIndex >= 0)"
    assert opened.run(script)


def test_without_scripts_the_plots_are_still_there(browser: Browser, page: Path) -> None:
    browser.open(page, scripts=False)
    document = browser.send("DOM.getDocument")["root"]["nodeId"]
    drawn = browser.send("DOM.querySelectorAll", nodeId=document, selector=".drawing > svg polyline")["nodeIds"]
    assert len(drawn) >= 2


# -- sound ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    examples = tuple(
        SpeechExample(
            f"{ALARM} {i}", 0.1 * np.sin(np.arange(8000 * 2)), 8000, np.eye(40, 9), "a", "b", [("a", 0.0, 2.0)]
        )
        for i in range(2)
    )
    path = tmp_path_factory.mktemp("page") / "sounds.html"
    return write_report(path, "Sounds", [Section("Sounds", (Grid(examples),))])


PLAYERS = "[...document.querySelectorAll('audio')]"


def play_from(browser: Browser, number: int, share: float) -> None:
    """Click into the drawing of a sound, so far along its axis of time."""
    drawing = f"document.querySelectorAll('figure.sound svg')[{number}]"
    browser.run(f"{drawing}.scrollIntoView({{block: 'center'}})")
    ends = browser.run(f"({{...{drawing}.dataset}})")
    place = float(ends["left"]) + share * (float(ends["right"]) - float(ends["left"]))
    box = browser.run(f"{drawing}.getBoundingClientRect().toJSON()")
    browser.click(box["x"] + place / 480 * box["width"], box["y"] + 40)


def test_sounds_are_read_and_nothing_complains(browser: Browser, sounds: Path) -> None:
    browser.open(sounds)
    assert browser.run(f"{PLAYERS}.map(player => [player.duration, player.error])") == [[2.0, None]] * 2
    assert browser.complaints() == [] and browser.requests() == []
    assert browser.run("window.hacked === undefined")


def test_a_click_plays_from_there_and_stops_the_other(browser: Browser, sounds: Path) -> None:
    browser.open(sounds)
    play_from(browser, 0, 0.5)
    first = browser.run(f"new Promise(done => setTimeout(() => done({PLAYERS}[0].currentTime), 200))")
    assert 0.99 < first < 1.9
    assert browser.run("document.querySelectorAll('.head').length") == 1
    play_from(browser, 1, 0.1)
    assert browser.run(f"{PLAYERS}.map(player => player.paused)") == [True, False]
    play_from(browser, 1, -0.05)  # on the labels, not on the drawing
    assert browser.run(f"{PLAYERS}[1].currentTime") > 0.19


@pytest.mark.parametrize("width", [1200, 390])
def test_the_parts_of_two_sounds_stand_on_one_line(browser: Browser, tmp_path: Path, width: int) -> None:
    loud = 0.1 * np.sin(np.arange(4000))
    pair = (
        SpeechExample("short", loud, 8000, None, "one", "one"),
        SpeechExample("long " * 30, loud, 8000, None, "x", "y"),
    )
    path = write_report(tmp_path / "r.html", "t", [Section("h", (Grid(pair),))])
    browser.open(path, width=width)
    tops = browser.run(
        "[...document.querySelectorAll('figure.sound .drawing')].map(d => d.getBoundingClientRect().top)"
    )
    assert (tops[0] == tops[1]) is (width > 1000)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
