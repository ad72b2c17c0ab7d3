"""The process: a socket, signals, and uvicorn between them and the application."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lepton.errors import ConfigurationError, import_extra
from lepton.export import ExportedModel
from lepton.serve._limits import Limits

if TYPE_CHECKING:
    from lepton.serve._guard import Guard

__all__ = ["make_app", "serve"]

_BACKLOG = 2048
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def make_app(model: ExportedModel, limits: Limits | None = None) -> Guard:
    """Return the ASGI application that serves a model: for `serve`, or for another server of ASGI.

    Args:
        model: an exported model.
        limits: what is taken on at most.

    Raises:
        MissingExtraError: fastapi or python-multipart is not installed.
    """
    for module in ("fastapi", "python_multipart"):
        import_extra(module, "serve", "a server")
    from lepton.serve._app import Service

    return Service(model, limits or Limits()).guard


def serve(
    model: ExportedModel,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    started: Callable[[str], None] | None = None,
) -> None:
    """Serve a model until SIGTERM or SIGINT, then answer what was asked before, and return.

    Args:
        model: an exported model.
        host: the address to listen at; `0.0.0.0` for all of this machine.
        port: with 0, one that is free.
        limits: what is taken on at most.
        started: is told the server's address when it takes requests.

    Raises:
        ConfigurationError: the address cannot be listened at.
        MissingExtraError: fastapi, uvicorn or python-multipart is not installed.
    """
    uvicorn: Any = import_extra("uvicorn", "serve", "a server")
    limits = limits or Limits()
    app = make_app(model, limits)
    with _listening(host, port) as listener:
        config = uvicorn.Config(
            app,
            http=_patient(limits.read_timeout),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            limit_concurrency=limits.max_connections,
            timeout_graceful_shutdown=int(limits.timeout) + 5,
        )
        server = uvicorn.Server(config)
        if started is not None:
            app.on_start = lambda: started(_address(listener))
        # uvicorn raises a caught signal again when it is done: it should find someone who is not killed by it.
        before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        try:
            server.run(sockets=[listener])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol's number asyncio leaves Nagle's algorithm on, and each answer waits 40 ms for an
    # acknowledgement between its head and its body.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        words = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot listen at {host!r}, port {port}: {words}.") from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _patient(seconds: float) -> Any:
    """Return uvicorn's protocol, which by itself waits forever for the head of a request, with an end to that."""
    protocols: Any = import_extra("uvicorn.protocols.http.auto", "serve", "a server")

    class Patient(protocols.AutoHTTPProtocol):  # type: ignore[misc]
        _timer: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Set the clock as long as there is a connection, and no request in it."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._unwatch()
            elif self._timer is None:
                self._timer = self.loop.call_later(seconds, self._too_late)

        def _unwatch(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_late(self) -> None:
            if not self.transport.is_closing():
                self.transport.write(_LATE % (len(words := _words(seconds)), words))
                self.transport.close()

    return Patient


_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s"
)


def _words(seconds: float) -> bytes:
    return b'{"detail":"the head of the request did not come within %g seconds."}' % seconds
