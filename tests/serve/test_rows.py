"""Rows in JSON: the answers are those of `predict`, and what does not fit is named."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from lepton.export import ExportedModel
from lepton.serve import Limits, make_app
from tests.serve.conftest import rows_of_table

testclient = pytest.importorskip("starlette.testclient")

LIMITS = Limits(max_rows=50, max_queue=60, max_batch=16, max_body=20_000)


@pytest.fixture(scope="module")
def client(table_model: ExportedModel) -> Iterator[Any]:
    with testclient.TestClient(make_app(table_model, LIMITS)) as found:
        yield found


def expected(model: ExportedModel, rows: list[dict[str, Any]], tasks: list[str] | None = None) -> list[dict[str, Any]]:
    import pyarrow as pa

    table = pa.table({name: [row[name] for row in rows] for name in ("x", "city", "note", "day", "x2", "x3")})
    return model.predict(table, tasks=tasks).to_pylist()  # type: ignore[no-any-return]


def same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert [list(row) for row in found] == [list(row) for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        for name, value in other.items():
            assert one[name] == (pytest.approx(value, abs=1e-5, rel=1e-5) if isinstance(value, float) else value)


# -- answers ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [1, 3, 16, 17, 50])
def test_the_answers_are_those_of_predict(client: Any, table_model: ExportedModel, number: int) -> None:
    rows = rows_of_table(number)
    answer = client.post("/predict", json={"rows": rows})
    assert answer.status_code == 200
    wanted = expected(table_model, rows)
    same(answer.json()["predictions"], wanted)
    assert number < 16 or len({row["price"] for row in wanted}) > 8  # rows differ, or order would not be compared


def test_one_row_without_a_list_and_columns_in_any_order_and_further_ones(
    client: Any, table_model: ExportedModel
) -> None:
    (row,) = rows_of_table(1)
    turned = {"other": [1, {"deep": None}], **dict(reversed(row.items()))}
    found = client.post("/predict", json={"rows": turned})
    same(found.json()["predictions"], expected(table_model, [row]))


def test_some_tasks_in_the_order_of_the_model(client: Any, table_model: ExportedModel) -> None:
    rows = rows_of_table(4)
    found = client.post("/predict", json={"rows": rows, "tasks": ["tags", "price", "tags"]}).json()["predictions"]
    same(found, expected(table_model, rows, ["price", "tags"]))
    assert client.post("/predict", json={"rows": rows, "tasks": None}).status_code == 200


def test_missing_values_and_words_never_seen(client: Any, table_model: ExportedModel) -> None:
    row = dict.fromkeys(("x", "city", "note", "day", "x2", "x3"))
    odd = {"x": -1e30, "city": "Rom", "note": "😀", "day": "soon", "x2": 1, "x3": 0.5}
    found = client.post("/predict", json={"rows": [row, odd]}).json()["predictions"]
    same(found, expected(table_model, [row, odd]))


def test_categories_that_are_numbers_are_the_words_that_a_table_has() -> None:
    import pyarrow as pa

    from lepton.data import as_words
    from lepton.serve._columns import AskedColumn

    column = AskedColumn("kind", "category")
    for values in ([3, 4, None], [3.0, 0.25, 1e20, None], [True, False, None], ["a", "3.0", None], [10**17]):
        words = as_words(pa.chunked_array([pa.array(values)])).to_pylist()
        assert column.array(values).to_pylist() == words
    assert column.array([3, 3.0, "3", True]).to_pylist() == ["3", "3", "3", "true"]


# -- what does not fit --------------------------------------------------------------------------------------------
ROW = '{"x": 1, "city": "Ulm", "note": "a", "day": null}'
FAULTS = {
    "no JSON": ("{", 400, "is no JSON"),
    "nothing": ("", 400, "is no JSON"),
    "no text": (b"\xff\xfe\x00", 400, "is no JSON"),
    "too deep": ("[" * 5000 + "]" * 5000, 400, "is no JSON"),
    "a list": (f"[{ROW}]", 422, "the body must be an object"),
    "no rows": ("{}", 422, 'there are no "rows"'),
    "empty rows": ('{"rows": []}', 422, "rows is an empty list"),
    "rows of a wrong kind": ('{"rows": "all"}', 422, "rows must be a list of objects"),
    "a row of a wrong kind": (f'{{"rows": [{ROW}, [1, 2]]}}', 422, "row 1 must be an object with the columns"),
    "NaN": ('{"rows": [{"x": NaN, "city": null, "note": "", "day": null}]}', 422, "column 'x' is nan"),
    "Infinity": ('{"rows": {"x": -Infinity, "city": null, "note": "", "day": null}}', 422, "column 'x' is -inf"),
    "a number beyond floats": ('{"rows": {"x": 1e999, "city": null, "note": "", "day": null}}', 422, "'x' is inf"),
    "a word for a number": ('{"rows": {"x": "1", "city": null, "note": "", "day": null}}', 422, "'x' must be a finite"),
    "true for a number": ('{"rows": {"x": true, "city": null, "note": "", "day": null}}', 422, "'x' must be a finite"),
    "a huge whole number": (f'{{"rows": {{"x": 1{"0" * 400}, "city": null, "note": "", "day": null}}}}', 422, "'x'"),
    "a list for a category": ('{"rows": {"x": 1, "city": ["Ulm"], "note": "", "day": null}}', 422, "'city' must be"),
    "NaN for a category": ('{"rows": {"x": 1, "city": NaN, "note": "", "day": null}}', 422, "'city'"),
    "a number for a text": ('{"rows": {"x": 1, "city": null, "note": 3, "day": null}}', 422, "'note' must be a string"),
    "a column that is missing": ('{"rows": {"x": 1, "note": "", "day": null}}', 422, "'city' is missing"),
    "a misspelt column": ('{"rows": {"x": 1, "citi": "Ulm", "note": "", "day": null}}', 422, "was it meant by 'citi'"),
    "an unknown task": (f'{{"rows": [{ROW}], "tasks": ["prise"]}}', 422, "Did you mean 'price'"),
    "a task left out": (f'{{"rows": [{ROW}], "tasks": ["pair"]}}', 422, "was left out: it is auxiliary"),
    "tasks of a wrong kind": (f'{{"rows": [{ROW}], "tasks": "price"}}', 422, "tasks must be a list"),
    "no tasks": (f'{{"rows": [{ROW}], "tasks": []}}', 422, "tasks must be a list"),
    "too many rows": (f'{{"rows": [{", ".join([ROW] * 51)}]}}', 413, "has 51 rows, but may have 50"),
    "too large": (f'{{"rows": [{ROW}], "more": "{"a" * 20_000}"}}', 413, "larger than the limit of 20000 bytes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_named(client: Any, fault: str) -> None:
    body, status, words = FAULTS[fault]
    answer = client.post("/predict", content=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"] and len(answer.json()["detail"]) < 700
    assert client.post("/predict", content=f'{{"rows": [{ROW}]}}').status_code == 200  # the row itself is right


def test_other_paths_and_methods(client: Any) -> None:
    assert client.get("/predict").status_code == 405 and "does not take GET" in client.get("/predict").json()["detail"]
    assert client.get("/nowhere").status_code == 404 and "'/nowhere'" in client.get("/nowhere").json()["detail"]
    answer = client.post("/predict/file", content=b"a file")
    assert answer.status_code == 422 and "reads no files, but the columns" in answer.json()["detail"]


# -- beside predictions -------------------------------------------------------------------------------------------
def test_health_and_metrics(table_model: ExportedModel) -> None:
    with testclient.TestClient(make_app(table_model, LIMITS)) as client:
        assert client.get("/health").json() == client.get("/health/ready").json() == {"status": "ready"}
        assert client.get("/health/live").json() == {"status": "live"}
        rows = rows_of_table(5)
        client.post("/predict", json={"rows": rows})
        client.post("/predict", content="{")
        client.get("/made/up")
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    for line in (
        'lepton_requests_total{path="/predict",status="200"} 1',
        'lepton_requests_total{path="/predict",status="400"} 1',
        'lepton_requests_total{path="other",status="404"} 1',
        'lepton_batch_rows_bucket{le="4"} 0',
        'lepton_batch_rows_bucket{le="8"} 1',
        'lepton_batch_rows_bucket{le="+Inf"} 1',
        "lepton_batch_rows_sum 5.000000",
        "lepton_batch_seconds_count 1",
        "lepton_queue_seconds_count 1",
        "lepton_queue_rows 0",
        "lepton_open_requests 1",  # this one
    ):
        assert line in lines
    assert all(math.isfinite(float(line.rpartition(" ")[2])) for line in lines if not line.startswith("#"))


def test_the_description_is_made_of_the_model(client: Any) -> None:
    found = client.get("/openapi.json").json()
    row = found["components"]["schemas"]["Row"]
    assert row["required"] == ["x", "city", "note", "day"]
    assert "'Ulm'" in row["properties"]["city"]["description"]
    assert found["components"]["schemas"]["TaskName"]["enum"] == ["price", "sold", "tags", "flags"]
    assert "/predict/file" not in found["paths"]
    example = found["components"]["schemas"]["Request"]["examples"][0]
    assert client.post("/predict", content=json.dumps(example)).status_code == 200


def test_the_page_fetches_nothing_from_elsewhere(client: Any) -> None:
    page = client.get("/")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text and "https://" not in page.text
