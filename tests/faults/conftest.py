"""What the tests of faults share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.settings import write_files


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures and recordings that some settings read."""
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder
