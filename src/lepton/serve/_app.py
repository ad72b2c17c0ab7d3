"""The application: what is answered under which path."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

from lepton.export import ExportedModel
from lepton.serve._batching import Batcher
from lepton.serve._engine import Engine, Work
from lepton.serve._guard import Guard, Receive, Scope, Send
from lepton.serve._limits import Limits
from lepton.serve._metrics import Metrics
from lepton.serve._openapi import Description
from lepton.serve._page import HEADERS, interface_page, trial_page
from lepton.serve._problem import Problem
from lepton.serve._request import RequestReader
from lepton.serve._uploads import UploadReader

__all__ = ["Service"]

_PATHS = (
    "/predict",
    "/predict/file",
    "/health",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/",
    "/docs",
    "/openapi.json",
)


class Service:
    """One model behind its paths.

    Args:
        model: what predicts.
        limits: what is taken on at most.

    Attributes:
        guard: the ASGI application.
    """

    def __init__(self, model: ExportedModel, limits: Limits) -> None:
        self.model = model
        self.limits = limits
        self.metrics = Metrics()
        self.reader = RequestReader(model)
        self.uploads = UploadReader(self.reader, limits.max_pixels, limits.max_rows)
        self.engine = Engine(model, self.reader.columns, limits.max_batch)
        self.batcher = Batcher(self.engine, limits, self.metrics)
        self.ready = False
        self.app = self._application()
        self.direct = {"/predict": self.predict, "/predict/file": self.predict_file}
        self.guard = Guard(self._answer, limits, self.metrics, _PATHS)

    def _application(self) -> FastAPI:
        name = self.model.manifest.name or self.model.folder.name
        app = FastAPI(title=name, version="1", docs_url=None, redoc_url=None, lifespan=self._life)
        app.add_exception_handler(Problem, _answer_problem)
        app.add_exception_handler(HTTPException, _answer_http)
        self.described = Description(self.reader, self.uploads, self.model, self.limits)
        files, rows = bool(self.uploads.files), not self.uploads.files
        _route(app, "/predict", self.predict, rows, **self.described.predict)
        _route(app, "/predict/file", self.predict_file, files, **self.described.predict_file)
        _route(app, "/health", self.health, **self.described.health)
        _route(app, "/health/ready", self.health, **self.described.health)
        _route(app, "/health/live", self.live, **self.described.live)
        _route(app, "/metrics", self.read_metrics, **self.described.metrics)
        _route(app, "/", self.front, False)
        _route(app, "/docs", self.docs, False)
        app.openapi = functools.cache(lambda: self.described.whole(app))  # type: ignore[method-assign]
        self._front = trial_page(name, self.reader, self.model, self.limits)
        self._interface = interface_page(name)
        return app

    @contextlib.asynccontextmanager
    async def _life(self, app: Any) -> AsyncIterator[None]:
        del app
        self.engine.warm(self.reader.example)
        self.batcher.start()
        self.ready = True
        self.guard.on_start()
        try:
            yield
        finally:
            self.ready = False
            await self.batcher.stop()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: a prediction by the shortest way, which halves what it costs beside the model."""
        answer = self.direct.get(scope.get("path", ""))
        if answer is None or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await answer(request)
        except Problem as problem:
            response = await _answer_problem(request, problem)
        await response(scope, receive, send)

    # -- answers ----------------------------------------------------------------------------------------------
    async def predict(self, request: Request) -> Response:
        """Answer rows in JSON."""
        asked = self.reader.read(await request.body(), self.limits.max_rows)
        return _json(await self.batcher.answer(Work(asked.rows, asked.tasks)))

    async def predict_file(self, request: Request) -> Response:
        """Answer files."""
        tasks = request.query_params.getlist("tasks")
        work = await self.uploads.read(request.headers.get("content-type", ""), await request.body(), tasks)
        return _json(await self.batcher.answer(work))

    async def health(self, request: Request) -> Response:
        """Say whether requests are taken."""
        del request
        if not self.ready:
            raise Problem(503, "the server is starting or stopping.", retry_after=1)
        return _json(b'{"status":"ready"}')

    async def live(self, request: Request) -> Response:
        """Say that the event loop turns."""
        del request
        return _json(b'{"status":"live"}')

    async def read_metrics(self, request: Request) -> Response:
        """Give the counts."""
        del request
        text = self.metrics.text(waiting=self.batcher.rows, open_requests=self.guard.open_requests)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def front(self, request: Request) -> Response:
        """Give the page for people."""
        del request
        return HTMLResponse(self._front, headers=HEADERS)

    async def docs(self, request: Request) -> Response:
        """Give the page about the interface."""
        del request
        return HTMLResponse(self._interface, headers=HEADERS)


def _route(
    app: FastAPI, path: str, answer: Callable[[Request], Awaitable[Response]], shown: bool = True, **described: Any
) -> None:
    method = "POST" if path.startswith("/predict") else "GET"
    app.add_api_route(path, answer, methods=[method], include_in_schema=shown, response_model=None, **described)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


async def _answer_problem(request: Request, problem: Any) -> Response:
    del request
    headers = {} if problem.retry_after is None else {"Retry-After": str(problem.retry_after)}
    if problem.close:
        headers["Connection"] = "close"
    return JSONResponse({"detail": problem.words}, problem.status, headers)


async def _answer_http(request: Request, error: Any) -> Response:
    words = {404: f"there is no {request.url.path!r}: see /openapi.json."}
    words |= {405: f"{request.url.path!r} does not take {request.method}: see /openapi.json."}
    return JSONResponse({"detail": words.get(error.status_code, error.detail)}, error.status_code, error.headers)
