"""The data sets of the language recipes: which files, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lepton.errors import DataError

__all__ = ["MULTI30K", "UD_EWT", "DataSet"]


@dataclass(frozen=True)
class DataSet:
    """Files of one data set, and its public home.

    Attributes:
        name: what people call it.
        home: where the files are.
        parts: `source`, `val`, `test` -> path within the folder, as `data.source` takes it.
        files: what must be there.
        licence: what it may be used for.
    """

    name: str
    home: str
    parts: Mapping[str, str]
    files: tuple[str, ...]
    licence: str

    def sources(self, folder: Path) -> dict[str, str]:
        """Return the section `data` of a configuration that reads the set in a folder.

        Raises:
            DataError: a file is missing; the message says where the set lives.
        """
        missing = [name for name in self.files if not (folder / name).is_file()]
        if missing:
            raise DataError(
                f"{str(folder)!r} does not hold {self.name}: {', '.join(missing)} missing. Get them from {self.home} "
                f"({self.licence}) and pass their folder as --data."
            )
        return {key: str(folder / path) for key, path in self.parts.items()}


MULTI30K = DataSet(
    name="Multi30k",
    home="https://github.com/multi30k/dataset, folder data/task1/raw",
    parts={"source": "train", "val": "val", "test": "test_2016_flickr"},
    files=tuple(f"{part}.{language}.gz" for part in ("train", "val", "test_2016_flickr") for language in ("en", "de")),
    licence="captions of Flickr pictures, for research",
)

_EWT = {part: f"en_ewt-ud-{part}.conllu.gz" for part in ("train", "dev", "test")}

UD_EWT = DataSet(
    name="UD English-EWT",
    home="https://github.com/UniversalDependencies/UD_English-EWT (gzip the three .conllu files)",
    parts={"source": _EWT["train"], "val": _EWT["dev"], "test": _EWT["test"]},
    files=tuple(_EWT.values()),
    licence="CC BY-SA 4.0",
)
