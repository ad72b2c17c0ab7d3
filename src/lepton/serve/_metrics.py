"""Counts and durations of a server, in the text format that Prometheus reads."""

from __future__ import annotations

import bisect
import time
from collections import Counter
from collections.abc import Iterable, Sequence

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Histogram:
    """Counts of values up to each of some bounds.

    Args:
        bounds: sorted.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> Iterable[str]:
        """Yield the lines of the text format."""
        total = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """What a server has done since it began.

    Example:
        >>> metrics = Metrics()
        >>> metrics.request("/predict", 200, 0.004)
        >>> "lepton_requests_total{path=\\"/predict\\",status=\\"200\\"} 1" in metrics.text(waiting=0, open_requests=0)
        True
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self._seconds = Histogram(_SECONDS)
        self._batches = Histogram(_ROWS)
        self._batch_seconds = Histogram(_SECONDS)
        self._waited = Histogram(_SECONDS)
        self._began = time.time()

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answer.

        Args:
            path: what was asked, one of few.
            status: of the answer.
            seconds: from the head of the request to its answer.
        """
        self.requests[path, status] += 1
        self._seconds.add(seconds)

    def batch(self, rows: int, seconds: float, waited: Iterable[float]) -> None:
        """Count a batch.

        Args:
            rows: in it.
            seconds: that its prediction took.
            waited: seconds that each of its requests was in the queue.
        """
        self._batches.add(rows)
        self._batch_seconds.add(seconds)
        for wait in waited:
            self._waited.add(wait)

    def text(self, *, waiting: int, open_requests: int) -> str:
        """Return all of it in the text format.

        Args:
            waiting: rows in the queue now.
            open_requests: requests without an answer now.
        """
        lines = [*_head("lepton_requests_total", "counter", "Answers by path and status.")]
        lines += [
            f'lepton_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.requests.items())
        ]
        for name, kind, words, value in (
            ("lepton_queue_rows", "gauge", "Rows that wait for a prediction.", waiting),
            ("lepton_open_requests", "gauge", "Requests without an answer.", open_requests),
            ("process_start_time_seconds", "gauge", "When the server began.", self._began),
        ):
            lines += [*_head(name, kind, words), f"{name} {value:.15g}"]
        for name, words, histogram in (
            ("lepton_request_seconds", "From the head of a request to its answer.", self._seconds),
            ("lepton_batch_rows", "Rows predicted at a time.", self._batches),
            ("lepton_batch_seconds", "Time of one prediction.", self._batch_seconds),
            ("lepton_queue_seconds", "Time of a request in the queue.", self._waited),
        ):
            lines += [*_head(name, "histogram", words), *histogram.lines(name)]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, words: str) -> tuple[str, str]:
    return f"# HELP {name} {words}", f"# TYPE {name} {kind}"
