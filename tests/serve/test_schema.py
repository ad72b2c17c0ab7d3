"""The description of the interface holds: schemathesis asks what it allows, and what it does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lepton.export import ExportedModel
from lepton.serve import Limits, make_app
from lepton.serve._uploads import PICTURES
from tests.serve.conftest import picture

hypothesis = pytest.importorskip("hypothesis")
schemathesis = pytest.importorskip("schemathesis")
uvicorn = pytest.importorskip("uvicorn")
requests = pytest.importorskip("requests")

LIMITS = Limits(max_rows=20, max_body=50_000)


@contextmanager
def served(model: ExportedModel) -> Iterator[str]:
    """Serve a model from a thread, and give its address."""
    server = uvicorn.Server(uvicorn.Config(make_app(model, LIMITS), port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def addresses(table_model: ExportedModel, picture_model: ExportedModel) -> Iterator[dict[str, str]]:
    with served(table_model) as table, served(picture_model) as picture:
        yield {"table": table, "picture": picture}


def ask(address: str, mode: str, path: str, examples: int) -> set[int]:
    """Ask a path what its description allows (`positive`) or does not, and check each answer; return the statuses."""
    session = requests.Session()
    schema = schemathesis.openapi.from_dict(session.get(f"{address}/openapi.json").json())
    operation = next(found.ok() for found in schema.include(path=path).get_all_operations())
    statuses = set()

    @hypothesis.given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    @hypothesis.settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    def check(case: Any) -> None:
        answer = case.call(base_url=address, session=session)
        statuses.add(answer.status_code)
        case.validate_response(answer)

    check()
    return statuses


@pytest.mark.parametrize(("mode", "statuses"), [("positive", {200}), ("negative", {400, 422})])
def test_rows(addresses: dict[str, str], mode: str, statuses: set[int]) -> None:
    found = ask(addresses["table"], mode, "/predict", 40)
    assert found and found <= statuses


def test_files(addresses: dict[str, str]) -> None:
    pictures = hypothesis.strategies.sampled_from([picture(seed) for seed in range(3)])
    schemathesis.openapi.format("binary", pictures)
    for kind in PICTURES.values():
        schemathesis.openapi.media_type(kind, pictures)
    assert ask(addresses["picture"], "positive", "/predict/file", 25) == {200}
    found = ask(addresses["picture"], "negative", "/predict/file", 25)
    assert 422 in found and found <= {200, 413, 422}  # a wrong type of content is taken, if it is a picture


@pytest.mark.parametrize("path", ["/health", "/health/live", "/metrics"])
def test_what_takes_nothing(addresses: dict[str, str], path: str) -> None:
    assert ask(addresses["table"], "positive", path, 1) == {200}
