"""Errors that users read: what is missing says how it is installed, in the way that Lepton itself was."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from lepton.errors import MissingExtraError, import_extra


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"dir_info": {"editable": True}}, 'cd {clone} && pip install -e ".[plot]" -c constraints.txt'),
        ({"dir_info": {}}, 'pip install "lepton-mtl[plot]"'),
        (None, 'pip install "lepton-mtl[plot]"'),
    ],
    ids=["an editable clone", "a folder", "an index"],
)
def test_what_is_missing_is_installed_as_lepton_was(
    how: dict[str, object] | None, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path / "a clone"
    about = tmp_path / "lepton_mtl-0.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lepton-mtl\nVersion: 0.0\n")
    if how is not None:
        (about / "direct_url.json").write_text(json.dumps({"url": clone.as_uri(), **how}))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError) as found:
        import_extra("no_such_package_at_all", "plot", "A figure")
    assert str(found.value).endswith("Install it with:  " + line.format(clone=shlex.quote(str(clone))))
