"""The page to try a model by hand, in a real browser."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton.export import ExportedModel
from tests.serve.browser import Browser, chromium
from tests.serve.conftest import picture
from tests.serve.test_schema import served

if chromium() is None:
    pytest.skip("there is no chromium to look at the page with", allow_module_level=True)

TASK = "document.querySelector('[data-task={name}]').innerText"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = chromium()
    assert program is not None
    found = Browser(program, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def shot(browser: Browser, name: str) -> None:
    """Keep a picture of the page where people ask for it."""
    if folder := os.environ.get("LEPTON_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"{name}.png")


def test_a_table_by_hand(browser: Browser, table_model: ExportedModel) -> None:
    with served(table_model) as address:
        browser.open(f"{address}/")
        browser.wait("document.querySelectorAll('.task').length === 4")  # the example row is predicted at once
        shot(browser, "table")
        labels = browser.run("[...document.querySelectorAll('.field label')].map((label) => label.childNodes[0].data)")
        assert labels == ["x", "city", "note", "day"]
        browser.run("document.querySelector('input').value = '2.5'; document.querySelector('select').value = '=Bonn'")
        browser.run("for (const box of document.querySelectorAll('#tasks input')) box.checked = box.value === 'sold';")
        browser.run("document.querySelector('button').click()")
        browser.wait("document.querySelectorAll('.task').length === 1")
        row = json.loads(browser.run("document.getElementById('raw').textContent"))
        note = browser.run("document.querySelector('textarea').value")
        day = browser.run("document.querySelectorAll('input')[1].value")
        asked = {"x": [2.5], "city": ["Bonn"], "note": [note], "day": [day]}
        wanted = table_model.predict(asked, tasks=["sold"]).to_dict("records")[0]
        assert row["sold"] == wanted["sold"] and row["sold"] in browser.run(TASK.format(name="sold"))
        assert row["sold_probability_true"] == pytest.approx(wanted["sold_probability_true"], abs=1e-5)
        assert browser.run("document.querySelector('.track i').style.width") != ""
    assert browser.logged == []


def test_what_is_wrong_is_said_on_the_page(browser: Browser, table_model: ExportedModel) -> None:
    with served(table_model) as address:
        browser.open(f"{address}/")
        browser.run("document.querySelector('input').value = 'two'; document.querySelector('button').click()")
        said = browser.wait("document.querySelector('#problem:not([hidden])')?.innerText")
        assert "column 'x' must be a finite number" in said
        shot(browser, "wrong")
        browser.logged.clear()  # a browser logs every answer that is no 200


def test_a_picture_by_hand(browser: Browser, picture_model: ExportedModel, tmp_path: Path) -> None:
    file = tmp_path / "scene.png"
    file.write_bytes(picture(3))
    wanted = picture_model.predict({"scene": [str(file)]}).to_dict("records")[0]
    with served(picture_model) as address:
        browser.open(f"{address}/", dark=True)
        assert "Give it a picture" in browser.run("document.querySelector('.empty').innerText")
        browser.choose_file("input[type=file]", file)
        browser.wait("document.querySelectorAll('.task').length === 3")
        assert browser.run(TASK.format(name="left")).split("\n")[1] == wanted["left"]
        size = browser.run("(({ width, height }) => [width, height])(document.querySelector('canvas'))")
        assert size == [14, 10]
        assert browser.wait("document.querySelector('.drop img').naturalWidth") == 14
        row = json.loads(browser.run("document.getElementById('raw').textContent"))
        assert row["pixels"] == wanted["pixels"].tolist()
        shot(browser, "picture")
    assert browser.logged == []


def test_it_fits_a_telephone_and_the_interface_is_described_without_a_network(
    browser: Browser, table_model: ExportedModel
) -> None:
    with served(table_model) as address:
        browser.open(f"{address}/", width=380, height=900)
        browser.wait("document.querySelectorAll('.task').length === 4")
        assert browser.run("document.documentElement.scrollWidth") <= 380
        shot(browser, "telephone")
        browser.open(f"{address}/docs")
        browser.wait("document.querySelectorAll('.path').length >= 5")
        assert "/predict" in browser.run("document.body.innerText")
        shot(browser, "docs")
    assert browser.logged == []
