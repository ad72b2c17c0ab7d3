"""The pages for people: one to try a model by hand, made from its rules, and one about the interface."""

from __future__ import annotations

import html
import json
from importlib import resources
from typing import Any

from lepton.export import ExportedModel
from lepton.serve._columns import AskedColumn
from lepton.serve._limits import Limits
from lepton.serve._request import RequestReader
from lepton.serve._uploads import PICTURES, RECORDINGS

__all__ = ["HEADERS", "interface_page", "trial_page"]

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data: blob:; media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""What a browser is told: nothing is fetched from elsewhere, and no other page shows this one."""


def trial_page(title: str, reader: RequestReader, model: ExportedModel, limits: Limits) -> str:
    """Return the page with a field for each column.

    Args:
        title: the model's name.
        reader: of rows, which knows the columns.
        model: what predicts.
        limits: what is taken on at most.
    """
    files = [column for column in reader.columns if column.is_file]
    kinds = {"image": "a picture", "audio": "a recording"}
    needed = kinds[files[0].kind] if files else "values"
    return _filled(
        "_page.html",
        title=html.escape(title),
        style=_asset("_page.css"),
        words=html.escape(f"Predicts {_listed(model.tasks)} from {_listed(reader.names)}."),
        empty=f"Give it {needed}, and what the model says of it stands here.",
        footer=_footer(model, limits),
        model=_embedded(_described(reader, model)),
        script=_asset("_page.js"),
    )


def interface_page(title: str) -> str:
    """Return the page about the interface, which reads `openapi.json`."""
    return _filled("_docs.html", title=html.escape(title), style=_asset("_page.css"), script=_asset("_docs.js"))


def _described(reader: RequestReader, model: ExportedModel) -> dict[str, Any]:
    tasks = [
        {"name": rule.task, "kind": rule.kind, "labels": rule.classes, "predicted": rule.predicted}
        for rule in model.rules
    ]
    columns = [
        {
            "name": column.name,
            "kind": column.kind,
            "example": column.example,
            "choices": column.choices,
            "date_format": column.date_format,
            "accept": _accepted(column),
        }
        for column in reader.columns
    ]
    return {"tasks": tasks, "columns": columns}


def _accepted(column: AskedColumn) -> str | None:
    """Return what a browser offers to upload; None for a column without files."""
    if not column.is_file:
        return None
    return ",".join((PICTURES if column.kind == "image" else RECORDINGS).values())


def _footer(model: ExportedModel, limits: Limits) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in model.manifest.versions.items())
    sentences = [
        f"A request may have {limits.max_rows:,} rows and {limits.max_body / 1e6:.3g} MB.",
        *(f"{name!r} is not here: {why}." for name, why in model.manifest.left_out.items()),
        f"Exported with {versions}.",
    ]
    return "".join(f"<p>{html.escape(sentence)}</p>\n" for sentence in sentences)


def _embedded(content: Any) -> str:
    """Return JSON that cannot end the element that it stands in."""
    return json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")


def _listed(names: list[str]) -> str:
    shown = names if len(names) <= 8 else [*names[:7], f"{len(names) - 7} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _asset(name: str) -> str:
    return resources.files("lepton.serve").joinpath(name).read_text(encoding="utf-8")


def _filled(name: str, **values: str) -> str:
    """Return a page with its places filled, each once: what fills one place is not looked at again."""
    parts = _asset(name).split("{{")
    filled = [values[key] + rest for key, _, rest in (part.partition("}}") for part in parts[1:])]
    return parts[0] + "".join(filled)
