"""What stands between the network and the application: bodies within limits, every answer counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, MutableMapping
from typing import Any

from lepton.serve._limits import Limits
from lepton.serve._metrics import Metrics
from lepton.serve._problem import Problem

__all__ = ["Guard", "Receive", "Scope", "Send"]

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_DRAINED = 256 << 20
"""Bytes of a refused body that are thrown away. A client that writes its whole body before it reads would otherwise
find the connection broken, and never see the reason."""


class Guard:
    """An ASGI application around another one: limits what it reads, and counts what it answers.

    Args:
        app: what answers.
        limits: of bodies and of time.
        metrics: where answers are counted.
        paths: that are counted under their own names; all others together.
    """

    def __init__(self, app: App, limits: Limits, metrics: Metrics, paths: Container[str]) -> None:
        self.app = app
        self.limits = limits
        self.metrics = metrics
        self.paths = paths
        self.open_requests = 0
        self.held = 0
        self.on_start: Callable[[], None] = lambda: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on what is none."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(self, scope, receive, send)
        self.open_requests += 1
        try:
            await self.app(scope, exchange.receive, exchange.send)
        finally:
            self.open_requests -= 1
            self.held -= exchange.held
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.request(path, exchange.status, time.monotonic() - exchange.began)


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard = guard
        self.began = time.monotonic()
        self.held = 0
        self.status = 499  # as long as nothing was answered: the client has gone
        self._receive = receive
        self._send = send
        self._whole = False
        self._told = _told_length(scope)

    async def receive(self) -> Message:
        """Return the next part of the body.

        Raises:
            Problem: there is too much of it, or it comes too slowly.
        """
        if self._whole:
            return await self._receive()
        limits = self.guard.limits
        if self._told is not None and self._told > limits.max_body:
            raise self._too_large()
        message = await self._in_time()
        self._whole = not message.get("more_body", False)
        size = len(message.get("body", b""))
        self.held += size
        self.guard.held += size
        if self.held > limits.max_body:
            raise self._too_large()
        if self.guard.held > limits.max_bodies:
            raise Problem(503, "the server holds too many large bodies: come again later.", retry_after=1)
        return message

    async def _in_time(self) -> Message:
        left = self.began + self.guard.limits.read_timeout - time.monotonic()
        try:
            async with asyncio.timeout(left):
                return await self._receive()
        except TimeoutError:
            self._whole = True  # nothing more is waited for
            seconds = self.guard.limits.read_timeout
            raise Problem(408, f"the body did not come within {seconds:g} seconds.", close=True) from None

    def _too_large(self) -> Problem:
        most = self.guard.limits.max_body
        told = f" of {self._told} bytes" if self._told is not None else ""
        return Problem(413, f"the body{told} is larger than the limit of {most} bytes.", close=True)

    async def send(self, message: Message) -> None:
        """Send a part of the answer; what is left of the request's body is thrown away before its end."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif not self._whole and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _drain(self) -> None:
        until = time.monotonic() + self.guard.limits.read_timeout
        size = 0
        while not self._whole and size < _DRAINED:
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    message = await self._receive()
            except TimeoutError:
                return
            size += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)


def _told_length(scope: Scope) -> int | None:
    """Return the length of a body as its head tells it; of an absurd number the first digits, which are enough."""
    told = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return int(told[:18]) if told.isdigit() else None
