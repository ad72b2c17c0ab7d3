"""Where shards lie: files, folders, URLs that fsspec opens."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton.errors import DataError, import_extra

__all__ = ["SHARD_SUFFIXES", "Place", "find_places", "is_url"]

SHARD_SUFFIXES = (".parquet", ".arrow", ".feather", ".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Place:
    """One shard: a file, or what a URL names.

    Attributes:
        name: path or URL, as it is shown.
    """

    name: str

    @property
    def packed(self) -> bool:
        """Whether it is compressed as a whole, so that it can only be read from its beginning."""
        return self.name.endswith(".gz")

    @property
    def suffix(self) -> str:
        """What the name ends with, without `.gz`."""
        name = self.name.removesuffix(".gz").rpartition("/")[2]
        return Path(name).suffix.lower()

    @contextlib.contextmanager
    def open(self) -> Iterator[Any]:
        """Open it for reading bytes, unpacked if it is packed.

        Raises:
            OSError: it is not there or cannot be read.
        """
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self._open())
            if self.packed:
                import gzip

                file = stack.enter_context(io.BufferedReader(gzip.GzipFile(fileobj=file)))
            yield file

    def _open(self) -> Any:
        if not is_url(self.name):
            return Path(self.name).open("rb")
        return _file_system(self.name)[0].open(self.name, "rb")

    def size(self) -> int:
        """Return how many bytes it has, packed if it is packed."""
        if not is_url(self.name):
            return Path(self.name).stat().st_size
        return int(_file_system(self.name)[0].size(self.name))


def is_url(source: str) -> bool:
    """Return whether a source is a URL, such as `s3://bucket/rows.parquet`."""
    return "://" in source


def _file_system(url: str) -> tuple[Any, str]:
    fsspec = import_extra("fsspec", "remote", f"reading {url!r}")
    system, path = fsspec.core.url_to_fs(url)
    return system, str(path)


def find_places(source: str | Path | Sequence[str | Path]) -> list[Place]:
    """Return the shards of a source in the order of their names.

    Args:
        source: a file, a folder of files, a URL of either, or a list of files and URLs, which keeps its order.

    Raises:
        DataError: there is nothing of that name, or nothing in it that can be read.
    """
    if not isinstance(source, (str, Path)):
        return [Place(str(one)) for one in source]
    name = str(source)
    found = _remote(name) if is_url(name) else _local(Path(name))
    if not found:
        raise DataError(
            f"{name!r} holds nothing that can be streamed: the endings of shards are {', '.join(SHARD_SUFFIXES)} "
            "(text also .gz)."
        )
    return found


def _local(path: Path) -> list[Place]:
    if not path.exists():
        raise DataError(f"there is no file or folder {str(path)!r}.")
    if path.is_file():
        return _readable([str(path)])
    return _readable(str(child) for child in sorted(path.iterdir()) if child.is_file())


def _remote(url: str) -> list[Place]:
    system, path = _file_system(url)
    try:
        listed = sorted(system.ls(path, detail=False)) if system.isdir(path) else [path]
        if not system.exists(path):
            raise DataError(f"there is no file or folder {url!r}.")
    except OSError as error:
        raise DataError(f"{url!r} cannot be read: {error}.") from error
    return _readable(system.unstrip_protocol(name) for name in listed)


def _readable(names: Any) -> list[Place]:
    places = [Place(name) for name in names if not name.rpartition("/")[2].startswith((".", "_"))]
    return [place for place in places if place.suffix in SHARD_SUFFIXES]
