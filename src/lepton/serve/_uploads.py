"""Files that come with a request: pictures and recordings, by their content and not by their name."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from lepton.errors import DataError
from lepton.serve._columns import AskedColumn
from lepton.serve._engine import Row, Work
from lepton.serve._problem import Problem
from lepton.serve._request import RequestReader, shown

__all__ = ["PICTURES", "RECORDINGS", "UploadReader"]

PICTURES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif", "BMP": "image/bmp"}
"""Formats of pictures that are read, and nothing else that Pillow would open."""

RECORDINGS = {"WAV": "audio/wav", "FLAC": "audio/flac", "OGG": "audio/ogg"}

_ROW = "row"
"""The field of a form that holds the other columns."""


class UploadReader:
    """Reads requests that bring files.

    Args:
        reader: what the rows beside the files must be.
        max_pixels: of one picture.
        max_rows: of one request.
    """

    def __init__(self, reader: RequestReader, max_pixels: int, max_rows: int) -> None:
        self.reader = reader
        self.max_pixels = max_pixels
        self.max_rows = max_rows
        self.files = [column for column in reader.columns if column.is_file]
        self.others = [column for column in reader.columns if not column.is_file]

    async def read(self, content_type: str, body: bytes, tasks: Sequence[str]) -> Work:
        """Return what a request wants.

        Args:
            content_type: of the body: `multipart/form-data`, or anything else for the file alone.
            body: the form, or the file.
            tasks: names of tasks that the address gives.

        Raises:
            Problem: something about it is wrong.
        """
        if not self.files:
            names = [column.name for column in self.reader.columns]
            raise Problem(422, f"this model reads no files, but the columns {names[:20]}: send rows to /predict.")
        if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
            return Work([self._alone(body)], self.reader.chosen(tasks))
        files, fields = await _form(content_type, body)
        wanted = [*tasks, *fields.get("tasks", [])]
        self._check_names(files, fields)
        rows = self._rows(files, fields.get(_ROW, []))
        return Work(rows, self.reader.chosen(wanted))

    # -- rows -------------------------------------------------------------------------------------------------
    def _alone(self, body: bytes) -> Row:
        if len(self.reader.columns) > 1:
            needed = [column.name for column in self.reader.columns]
            raise Problem(
                422, f"the model reads {needed[:20]}: send a form (multipart/form-data) with a part for each file."
            )
        column = self.files[0]
        return {column.name: self._checked(column, body)}

    def _check_names(self, files: Mapping[str, Sequence[bytes]], fields: Mapping[str, Sequence[str]]) -> None:
        names = [column.name for column in self.files]
        for name in files:
            if name not in names:
                raise Problem(422, f"the form holds a file {shown(name)}, but the model reads {names}.")
        for name in fields:
            if name in names:
                raise Problem(422, f"{name!r} came as a text: send a file (with curl: -F {name}=@FILE).")
            allowed = [*([_ROW] if self.others else []), "tasks"]
            if name not in allowed:
                raise Problem(422, f"the form holds {shown(name)}, but may hold {[*names, *allowed]}.")

    def _rows(self, files: Mapping[str, Sequence[bytes]], row: Sequence[str]) -> list[Row]:
        if len(self.reader.columns) == 1:
            return self._several(self.files[0], files)
        for name, found in files.items():
            if len(found) > 1:
                raise Problem(422, f"the form holds {len(found)} files {name!r}: send one row at a time.")
        others = self._other_values(row)
        return [others | {column.name: self._one(column, files.get(column.name, [])) for column in self.files}]

    def _several(self, column: AskedColumn, files: Mapping[str, Sequence[bytes]]) -> list[Row]:
        found = files.get(column.name, [])
        if not found:
            raise Problem(422, f"the form holds no file {column.name!r} (with curl: -F {column.name}=@FILE).")
        if len(found) > self.max_rows:
            raise Problem(413, f"the request has {len(found)} files, but may have {self.max_rows}: send several.")
        return [{column.name: self._checked(column, body)} for body in found]

    def _one(self, column: AskedColumn, found: Sequence[bytes]) -> bytes | None:
        return self._checked(column, found[0]) if found else None

    def _other_values(self, row: Sequence[str]) -> dict[str, Any]:
        if not self.others:
            return {}
        names = [column.name for column in self.others]
        if len(row) != 1:
            raise Problem(422, f"the form needs one field {_ROW!r}: a JSON object with the columns {names[:20]}.")
        try:
            document = json.loads(row[0])
        except ValueError as error:
            raise Problem(422, f"the field {_ROW!r} is no JSON: {error}.") from error
        return dict(self.reader.check({"rows": [document]}, 1).rows[0])

    # -- files ------------------------------------------------------------------------------------------------
    def _checked(self, column: AskedColumn, body: bytes) -> bytes:
        if not body:
            raise Problem(422, f"the file {column.name!r} is empty.")
        if column.kind == "image":
            self._check_picture(column.name, body)
        elif not _is_sound(body):
            raise Problem(422, f"the file {column.name!r} is none of the formats {list(RECORDINGS)}.")
        return body

    def _check_picture(self, name: str, body: bytes) -> None:
        """Look at the head of a picture: its format and its size. Its pixels are decoded later, by a thread."""
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(body), formats=list(PICTURES)) as picture:
                width, height = picture.size
        except UnidentifiedImageError:
            raise Problem(422, f"the file {name!r} is none of the formats {list(PICTURES)}.") from None
        except Image.DecompressionBombError:
            raise Problem(413, f"the picture {name!r} has more pixels than the limit of {self.max_pixels}.") from None
        except (OSError, SyntaxError, ValueError, EOFError, DataError) as error:
            raise Problem(422, f"the picture {name!r} cannot be read: {error}.") from error
        if width * height > self.max_pixels:
            raise Problem(
                413, f"the picture {name!r} has {width} x {height} pixels, above the limit of {self.max_pixels}."
            )


def _is_sound(body: bytes) -> bool:
    return (body[:4] == b"RIFF" and body[8:12] == b"WAVE") or body[:4] in (b"fLaC", b"OggS")


async def _form(content_type: str, body: bytes) -> tuple[dict[str, list[bytes]], dict[str, list[str]]]:
    """Return the files and the other fields of a form."""
    from starlette.datastructures import Headers, UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        Headers({"content-type": content_type}), stream(), max_files=10_000, max_fields=100, max_part_size=len(body) + 1
    )
    files: dict[str, list[bytes]] = {}
    fields: dict[str, list[str]] = {}
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        words = getattr(error, "message", "it has no boundary")
        raise Problem(422, f"the form cannot be read: {words}") from error
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files.setdefault(name, []).append(await value.read())
        else:
            fields.setdefault(name, []).append(value)
    await form.close()
    return files, fields
