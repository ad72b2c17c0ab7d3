"""What the documentation says runs: every Python block of every page, every example in a docstring, and the site."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import lepton

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(r"(?:^<!-- skip: (?P<reason>.+?) -->\n+)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
MODULES = [name for _, name, _ in pkgutil.walk_packages(lepton.__path__, "lepton.")]


@dataclass
class Block:
    """A block of code of a page, with the line in which it begins and why it is not run, if so."""

    code: str
    line: int
    reason: str | None


def blocks_of(page: str) -> list[Block]:
    return [
        Block(found["code"], page.count("\n", 0, found.start("code")), found["reason"])
        for found in BLOCK.finditer(page)
    ]


def run(blocks: list[Block], name: str) -> None:
    """Execute the blocks in one namespace; the lines of a traceback are the page's."""
    namespace = {"__name__": f"docs_{Path(name).stem}"}
    for block in blocks:
        if block.reason is None:
            exec(compile("\n" * block.line + block.code, name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    run(blocks_of(page.read_text(encoding="utf-8")), str(page))


def test_blocks_are_found_in_order_and_skipped_only_with_a_reason() -> None:
    page = (
        "```python\na = 1\n```\n\n<!-- skip: needs a GPU -->\n```python\n1 / 0\n```\n"
        "```sh\nnot python\n```\n<!-- skip -->\n```python\na += 1\n```\n"
    )
    blocks = blocks_of(page)
    assert [block.reason for block in blocks] == [None, "needs a GPU", None]
    assert [block.line for block in blocks] == [1, 6, 13]


def test_a_block_that_fails_fails_with_the_line_of_the_page() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run(blocks_of("text\n```python\na = 0\n```\n```python\n1 / a\n```\n"), "page.md")
    assert caught.traceback[-1].lineno == 5  # counted from 0: the sixth line


@pytest.mark.parametrize("name", ["lepton", *MODULES])
def test_the_examples_in_docstrings_hold(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install 'lepton-mtl[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "index.html").is_file()
