"""What a request may hold: a type made from the model's columns, and sentences for what does not fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

import pydantic
from pydantic import BeforeValidator, Field, TypeAdapter
from pydantic_core import from_json
from typing_extensions import TypedDict

from lepton.errors import nearest
from lepton.export import ExportedModel
from lepton.serve._columns import AskedColumn, asked_columns
from lepton.serve._problem import Problem

__all__ = ["Asked", "RequestReader", "shown"]

Row = Mapping[str, Any]

_LONGEST = 60
"""Letters of a wrong value that a message repeats."""


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        rows: the values of the columns.
        tasks: what is predicted of them.
    """

    rows: Sequence[Row]
    tasks: tuple[str, ...]


class RequestReader:
    """Reads requests for one model.

    Args:
        model: what they ask about.

    Attributes:
        columns: what a row holds.
        names: of the columns.
        tasks: what can be predicted.
        adapter: the type of a request.
    """

    def __init__(self, model: ExportedModel) -> None:
        self.columns = asked_columns(model.encoder)
        self.tasks = tuple(model.tasks)
        self.left_out = dict(model.manifest.left_out)
        self.names = [column.name for column in self.columns]
        self._uploaded = [column.name for column in self.columns if column.is_file]
        self.adapter: TypeAdapter[Any] = TypeAdapter(self._request_type())

    # -- the type ---------------------------------------------------------------------------------------------
    def _request_type(self) -> Any:
        """Return the type of a request: rows with a key for each column that is no file, and names of tasks."""
        columns = {column.name: _annotated(column) for column in self.columns if not column.is_file}
        row: Any = _object("Row", columns, json_schema_extra={"example": self.example})
        tasks: Any = Literal[self.tasks]
        fields = {
            "rows": Annotated[list[row], BeforeValidator(_listed), Field(min_length=1)],
            "tasks": NotRequired[Annotated[list[tasks], Field(min_length=1)] | None],
        }
        return _object("Request", fields)

    @property
    def example(self) -> dict[str, Any]:
        """A row that the model can read, without its files."""
        return {column.name: column.example for column in self.columns if not column.is_file}

    # -- reading ----------------------------------------------------------------------------------------------
    def read(self, body: bytes, most: int) -> Asked:
        """Return what a request asks for.

        Args:
            body: JSON, `{"rows": [{...}, ...], "tasks": [...]}`; one row may stand without the list.
            most: rows that it may have.

        Raises:
            Problem: it is no JSON, has another form, or holds a value that its column does not take.
        """
        if self._uploaded:
            raise Problem(
                422,
                f"the model reads files, in {self._uploaded}: upload them to /predict/file. "
                "A path in a row would be one of the server's own disk, which no request may read.",
            )
        try:
            document = from_json(body)
        except ValueError as error:
            raise Problem(400, f"the body is no JSON: {error}.") from error
        return self.check(document, most)

    def check(self, document: Any, most: int) -> Asked:
        """Return what a request asks for that was JSON; see `read`."""
        rows = document.get("rows") if isinstance(document, dict) else None
        if isinstance(rows, list) and len(rows) > most:
            raise Problem(413, f"the request has {len(rows)} rows, but may have {most}: send several.")
        try:
            found = self.adapter.validate_python(document)
        except pydantic.ValidationError as error:
            raise Problem(422, self._sentence(document, error.errors(include_url=False)[0])) from error
        return Asked(found["rows"], tuple(dict.fromkeys(found.get("tasks") or self.tasks)))

    def chosen(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """Return the tasks that a form names, or all.

        Raises:
            Problem: the model has no such task.
        """
        for name in tasks:
            if name not in self.tasks:
                raise Problem(422, self._no_task(name))
        return tuple(dict.fromkeys(tasks)) or self.tasks

    # -- sentences --------------------------------------------------------------------------------------------
    def _sentence(self, document: Any, error: Any) -> str:
        place, kind, value = error["loc"], error["type"], error["input"]
        if place[:1] == ("tasks",):
            return self._wrong_tasks(place, value)
        if place[:1] != ("rows",):
            return f'the body must be an object {{"rows": [{{...}}], "tasks": [...]}}, but it is {shown(value)}.'
        if len(place) == 1:
            return self._wrong_rows(kind, value)
        if len(place) == 2:
            return f"row {place[1]} must be an object with the columns {_few(self.names)}, but it is {shown(value)}."
        return f"row {place[1]}: {self._wrong_value(place[2], kind, value)}"

    def _wrong_tasks(self, place: Sequence[Any], value: Any) -> str:
        if len(place) > 1 and isinstance(value, str):
            return self._no_task(value)
        return f"tasks must be a list of some of {list(self.tasks)}, or left out for all, but it holds {shown(value)}."

    def _no_task(self, name: str) -> str:
        why = f" It was left out: {self.left_out[name]}." if name in self.left_out else nearest(name, self.tasks)
        return f"there is no task {shown(name)}; tasks: {list(self.tasks)}.{why}"

    def _wrong_rows(self, kind: str, value: Any) -> str:
        if kind == "missing":
            return f'there are no "rows": send {{"rows": [{{...}}]}} with the columns {_few(self.names)}.'
        if kind == "too_short":
            return "rows is an empty list: there is nothing to predict."
        return f"rows must be a list of objects, or one object, but it is {shown(value)}."

    def _wrong_value(self, name: str, kind: str, value: Any) -> str:
        column = next(column for column in self.columns if column.name == name)
        if kind == "missing":
            return f"column {name!r} is missing{_instead(name, value)}; the model reads {_few(self.names)}."
        if kind == "finite_number":
            return f"column {name!r} is {value}, which is no number of JSON: send null where a value is missing."
        return f"column {name!r} must be {column.words}, but it is {shown(value)}."


def _object(name: str, fields: Mapping[str, Any], **config: Any) -> Any:
    """Return the type of a JSON object whose keys any words may be."""
    make: Any = TypedDict
    found = make(name, dict(fields))
    found.__pydantic_config__ = {"strict": True, **config}
    return found


def _annotated(column: AskedColumn) -> Any:
    examples = None if column.example is None else [column.example]
    return Annotated[column.type, Field(title=column.name, description=column.about, examples=examples)]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


def _instead(name: str, row: Any) -> str:
    hint = nearest(name, [key for key in row if isinstance(key, str)]) if isinstance(row, dict) else ""
    return f" ({hint.strip().replace('Did you mean', 'was it meant by')})" if hint else ""


def shown(value: Any) -> str:
    """Return a value of a request as a message may repeat it."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _few(names: Sequence[str]) -> str:
    return str(list(names)) if len(names) <= 20 else f"{list(names[:20])[:-1]}, ... ({len(names)} columns)"
