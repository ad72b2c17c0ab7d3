"""The description of the interface in OpenAPI, made from the model's rules."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import PlainTextResponse

from lepton.data import LabelRule
from lepton.export import ExportedModel
from lepton.serve._limits import Limits
from lepton.serve._request import RequestReader
from lepton.serve._uploads import PICTURES, RECORDINGS, UploadReader

__all__ = ["Description"]

_COMPONENTS = "#/components/schemas/"
_PROBLEM = {"$ref": f"{_COMPONENTS}Problem"}


class Description:
    """What each path takes and gives.

    Args:
        reader: of rows.
        uploads: reader of files.
        model: what predicts.
        limits: what is taken on at most.
    """

    def __init__(self, reader: RequestReader, uploads: UploadReader, model: ExportedModel, limits: Limits) -> None:
        self.reader = reader
        self.uploads = uploads
        self.model = model
        self.limits = limits
        self.schemas = self._schemas()

    # -- paths ------------------------------------------------------------------------------------------------
    @property
    def predict(self) -> dict[str, Any]:
        """What `add_api_route` should know of /predict."""
        content = {"application/json": {"schema": {"$ref": f"{_COMPONENTS}Request"}}}
        return {
            "summary": "Predict rows",
            "description": f"Up to {self.limits.max_rows} rows; each has all columns, null where a value is missing.",
            "openapi_extra": {"requestBody": {"required": True, "content": content}},
            "responses": self._answers(400),
        }

    @property
    def predict_file(self) -> dict[str, Any]:
        """What `add_api_route` should know of /predict/file."""
        content: dict[str, Any] = {"multipart/form-data": {"schema": self._form()}}
        if self.uploads.files and len(self.reader.columns) == 1:
            kinds = PICTURES if self.uploads.files[0].kind == "image" else RECORDINGS
            content |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds.values()}
        tasks = {"type": "array", "items": {"$ref": f"{_COMPONENTS}TaskName"}}
        words = "What is predicted; by default all."
        query = {"name": "tasks", "in": "query", "required": False, "description": words, "schema": tasks}
        return {
            "summary": "Predict from files",
            "description": "A form with a part for each file, or the file itself where the model reads nothing else.",
            "openapi_extra": {"requestBody": {"required": True, "content": content}, "parameters": [query]},
            "responses": self._answers(),
        }

    @property
    def health(self) -> dict[str, Any]:
        """What `add_api_route` should know of /health/ready."""
        answers = _said("ready") | _problems(503)
        words = "While the server starts and while it stops, 503."
        return {"summary": "Whether requests are taken", "description": words, "responses": answers}

    @property
    def live(self) -> dict[str, Any]:
        """What `add_api_route` should know of /health/live."""
        return {"summary": "Whether the server runs", "description": "Also while it stops.", "responses": _said("live")}

    @property
    def metrics(self) -> dict[str, Any]:
        """What `add_api_route` should know of /metrics."""
        content = {"text/plain": {"schema": {"type": "string"}}}
        answers = {200: {"description": "Text.", "content": content}}
        words = "Answers by status, durations, the size of batches and of the queue."
        kind = PlainTextResponse
        return {"summary": "Counts for Prometheus", "description": words, "responses": answers, "response_class": kind}

    def whole(self, app: FastAPI) -> dict[str, Any]:
        """Return the description of an application whose routes were told what is above."""
        words = f"Tasks: {', '.join(self.model.tasks)}."
        found: dict[str, Any] = get_openapi(title=app.title, version=app.version, description=words, routes=app.routes)
        found["components"] = {"schemas": self.schemas}
        return found

    def _answers(self, *more: int) -> dict[int | str, Any]:
        content = {"application/json": {"schema": {"$ref": f"{_COMPONENTS}Answer"}}}
        found: dict[int | str, Any] = {200: {"description": "One prediction for each row.", "content": content}}
        return found | _problems(*more, 408, 413, 422, 503)

    # -- schemas ----------------------------------------------------------------------------------------------
    def _schemas(self) -> dict[str, Any]:
        request = self.reader.adapter.json_schema(ref_template=f"{_COMPONENTS}{{model}}")
        found: dict[str, Any] = request.pop("$defs")
        row = {"$ref": f"{_COMPONENTS}Row"}
        rows = {"type": "array", "items": row, "minItems": 1, "maxItems": self.limits.max_rows}
        tasks = {"type": "array", "items": {"$ref": f"{_COMPONENTS}TaskName"}, "minItems": 1}
        request["properties"] = {
            "rows": {"anyOf": [rows, row], "description": "Rows, or one of them."},
            "tasks": {"anyOf": [tasks, {"type": "null"}], "description": "What is predicted; by default all."},
        }
        request["examples"] = [{"rows": [self.reader.example], "tasks": self.model.tasks}]
        return found | {
            "Request": request,
            "TaskName": {"type": "string", "enum": self.model.tasks},
            "Answer": self._answer(),
            "Problem": {
                "type": "object",
                "properties": {"detail": {"type": "string", "description": "What is wrong, in a sentence."}},
                "required": ["detail"],
            },
        }

    def _answer(self) -> dict[str, Any]:
        properties = {name: schema for rule in self.model.rules for name, schema in _predicted(rule).items()}
        prediction = {"type": "object", "properties": properties, "additionalProperties": False}
        predictions = {"type": "array", "items": prediction}
        return {"type": "object", "properties": {"predictions": predictions}, "required": ["predictions"]}

    def _form(self) -> dict[str, Any]:
        file: dict[str, Any] = {"type": "string", "format": "binary"}
        several = len(self.reader.columns) == 1
        files = {"type": "array", "items": file, "minItems": 1, "maxItems": self.limits.max_rows}
        parts: dict[str, Any] = {column.name: files if several else file for column in self.uploads.files}
        needed = list(parts) if several else []
        if self.uploads.others:
            needed.append("row")
            parts["row"] = {"type": "string", "description": f"The other columns as JSON: {self.reader.example}"}
        parts["tasks"] = {"type": "array", "items": {"$ref": f"{_COMPONENTS}TaskName"}}
        return {"type": "object", "properties": parts, "required": needed, "additionalProperties": False}


def _problems(*statuses: int) -> dict[int | str, Any]:
    content = {"application/json": {"schema": _PROBLEM}}
    words = {
        400: "No JSON.",
        408: "The body came too slowly.",
        413: "Too large: body, rows or pixels.",
        422: "Something in the request does not fit the model.",
        503: "Busy, too slow, or stopping: come again later.",
    }
    return {status: {"description": words[status], "content": content} for status in statuses}


def _said(word: str) -> dict[int | str, Any]:
    schema = {"type": "object", "properties": {"status": {"const": word}}, "required": ["status"]}
    return {200: {"description": "Yes.", "content": {"application/json": {"schema": schema}}}}


def _predicted(rule: LabelRule) -> dict[str, Any]:
    """Return the schema of each name that a task predicts."""
    number: dict[str, Any] = {"type": ["number", "null"]}
    label: dict[str, Any] = {"type": "string"} if len(rule.classes) > 100 else {"enum": list(rule.classes)}
    first: dict[str, Any] = {
        "classification": label,
        "multi_label": {"type": "array", "items": label},
        "segmentation": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
        "token_classification": {"type": "array", "items": {"type": ["string", "null"]}},
        "speech_recognition": {"type": "string"},
    }.get(rule.kind, number)
    return dict.fromkeys(rule.predicted, number) | dict.fromkeys(rule.predicted[:1], first)
