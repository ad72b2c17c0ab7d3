"""What is wrong with a request, as it is answered."""

from __future__ import annotations

__all__ = ["FAILED", "Problem"]

FAILED = "the prediction failed; the server's log says why."
"""What is said of a fault of our own: its traceback is nobody's business but the log's."""


class Problem(Exception):
    """A request that gets another status than 200.

    Args:
        status: of the answer.
        words: a sentence that names what is wrong.
        retry_after: seconds after which it may be sent again.
        close: whether the connection ends with the answer, since its body was not read.
    """

    def __init__(self, status: int, words: str, *, retry_after: int | None = None, close: bool = False) -> None:
        super().__init__(words)
        self.status = status
        self.words = words
        self.retry_after = retry_after
        self.close = close
