"""The reference of the configuration is the one that the code makes; every configuration that a page shows is valid."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import lepton
from lepton.config import check_added, check_config, compositions, make_balancer, methods

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = [
    (page.name, found[1])
    for page in sorted(DOCS.glob("*.md"))
    for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
    if re.search(r"^tasks:", found[1], re.MULTILINE) and re.search(r"^data:", found[1], re.MULTILINE)
]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_configuration", DOCS / "generate_configuration.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_the_one_that_the_code_makes(generator: ModuleType) -> None:
    written = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert written == generator.make_page(), "out of date: python docs/generate_configuration.py"


def test_every_option_is_on_the_page(generator: ModuleType) -> None:
    """Counted from the signatures, not from the models that the page is made of."""
    page = generator.make_page()
    for name, kind in {**methods(), **compositions()}.items():
        title = f"#### `{name}`" if name in compositions() else f"### `method: {name}`"
        own = re.split(r"\n#{2,4} ", page[page.index(f"\n{title}\n") + 5 :])[0]
        for option in set(inspect.signature(kind).parameters) - {"balancer"}:
            assert f"| `{option}` |" in own, (name, option)
    training = page[page.index("## `training`") :]
    of_the_caller = {"model", "callbacks", "folder", "resume_from_checkpoint", "baselines", "progress"}
    for option in set(inspect.signature(lepton.Trainer).parameters) - of_the_caller:
        assert f"| `{option}` |" in training, option


@pytest.mark.parametrize(("page", "text"), SHOWN, ids=[page for page, _ in SHOWN])
def test_a_configuration_that_a_page_shows_is_valid(page: str, text: str) -> None:
    content = yaml.safe_load(text)
    config = check_added(content) if "method" in content else check_config(content)
    make_balancer(config.balance)
