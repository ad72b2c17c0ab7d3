"""The description of the interface holds: schemathesis asks what it allows, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lepton.export import ExportedModel
from lepton.serve import Limits, make_app

hypothesis = pytest.importorskip("hypothesis")
schemathesis = pytest.importorskip("schemathesis")
testclient = pytest.importorskip("starlette.testclient")

LIMITS = Limits(max_rows=20, max_body=50_000)
SETTINGS = hypothesis.settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)


@pytest.fixture(scope="module")
def clients(table_model: ExportedModel, picture_model: ExportedModel) -> Iterator[dict[str, Any]]:
    with (
        testclient.TestClient(make_app(table_model, LIMITS)) as table,
        testclient.TestClient(make_app(picture_model, LIMITS)) as picture,
    ):
        yield {"table": table, "picture": picture}


@pytest.mark.parametrize("name", ["table", "picture"])
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_the_answers_are_as_described(clients: dict[str, Any], name: str, mode: str) -> None:
    client = clients[name]
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    asked: dict[str, set[int]] = {}
    modes = [schemathesis.GenerationMode(mode)]
    for found in schema.get_all_operations():
        operation = found.ok()

        @hypothesis.given(case=operation.as_strategy(generation_mode=modes[0]))
        @SETTINGS
        def check(case: Any) -> None:
            answer = case.call(base_url="http://testserver", session=client)
            asked.setdefault(case.operation.path, set()).add(answer.status_code)
            case.validate_response(answer)

        try:
            check()
        except hypothesis.errors.Unsatisfiable:
            assert mode == "negative"  # a path that takes nothing cannot be asked wrongly
    path = "/predict" if name == "table" else "/predict/file"
    assert path in asked
    if name == "table":
        assert (200 in asked[path]) == (mode == "positive")
