"""What a server takes on at most."""

from __future__ import annotations

from dataclasses import dataclass

from lepton.errors import is_number, is_whole, require

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """What a server takes on at most; beyond that it answers with a reason.

    Attributes:
        max_batch: rows that go through the graph at a time.
        max_wait_ms: milliseconds that a batch waits for as many rows as the one before it had. A client that asks
            alone never waits.
        max_queue: rows that wait; further ones get 503.
        max_rows: rows of one request.
        max_body: bytes of the body of one request.
        max_bodies: bytes of all bodies that are held at a time.
        max_pixels: of one picture, before it is resized.
        timeout: seconds until a request that was not predicted gets 503.
        read_timeout: seconds in which the head of a request must have come, and then its body.
        max_connections: that are open at a time.

    Raises:
        ConfigurationError: a value that is not allowed.

    Example:
        >>> Limits(max_batch=8).max_queue
        1024
    """

    max_batch: int = 64
    max_wait_ms: float = 5.0
    max_queue: int = 1024
    max_rows: int = 1000
    max_body: int = 8 << 20
    max_bodies: int = 128 << 20
    max_pixels: int = 16_000_000
    timeout: float = 30.0
    read_timeout: float = 10.0
    max_connections: int = 1000

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queue", "max_rows", "max_body", "max_pixels", "max_connections"):
            value = getattr(self, name)
            require(is_whole(value), "Limits", name, value, "a whole number of at least 1")
        for name in ("timeout", "read_timeout"):
            value = getattr(self, name)
            require(is_number(value) and value > 0, "Limits", name, value, "a number of seconds above 0")
        wait = self.max_wait_ms
        require(is_number(wait) and wait >= 0, "Limits", "max_wait_ms", wait, "a number of milliseconds of at least 0")
        rows, queue = self.max_rows, self.max_queue
        require(rows <= queue, "Limits", "max_rows", rows, f"at most max_queue, {queue}: it would never fit")
        body, bodies = self.max_body, self.max_bodies
        require(body <= bodies, "Limits", "max_bodies", bodies, f"at least max_body, {body}")
