"""`Batcher`: rows of waiting requests are collected and predicted together, by one thread."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lepton.serve._engine import Work
from lepton.serve._limits import Limits
from lepton.serve._metrics import Metrics
from lepton.serve._problem import FAILED, Problem

__all__ = ["Batcher"]

_log = logging.getLogger("lepton.serve")

_RETRY = 1
"""Seconds after which a client may come again."""


@dataclass(slots=True)
class _Waiting:
    work: Work
    answer: asyncio.Future[bytes]
    since: float


class Batcher:
    """A queue in front of a function that predicts for several requests at a time.

    While one batch is computed, the next one collects. A batch waits for as many rows as the one before it had, at
    most `max_wait_ms`: a client that asks alone never waits, and many that answer each other's pace fill batches.

    Args:
        predict: called in a thread of its own, with one batch at a time.
        limits: of batch, queue and time.
        metrics: counts batches.
    """

    def __init__(
        self, predict: Callable[[Sequence[Work]], list[bytes | Problem]], limits: Limits, metrics: Metrics
    ) -> None:
        self._predict = predict
        self._limits = limits
        self._metrics = metrics
        self._queue: deque[_Waiting] = deque()
        self._rows = 0
        self._expected = 1
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lepton-predict")
        self._loop: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return self._rows

    def start(self) -> None:
        """Begin to predict; called in the event loop."""
        self._loop = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Take nothing more, answer what waits, and end the thread."""
        self._stopping = True
        self._arrived.set()
        if self._loop is not None:
            await self._loop
        self._thread.shutdown()

    async def answer(self, work: Work) -> bytes:
        """Return the body of a request's answer.

        Raises:
            Problem: the queue is full, the server stops, the time is over, or the request is at fault.
        """
        if self._stopping:
            raise Problem(503, "the server is stopping.", retry_after=_RETRY)
        rows = len(work.rows)
        if self._rows + rows > self._limits.max_queue:
            raise Problem(
                503,
                f"{self._rows} rows are waiting, and {rows} more would be above the limit of "
                f"{self._limits.max_queue}: come again later.",
                retry_after=_RETRY,
            )
        waiting = _Waiting(work, asyncio.get_running_loop().create_future(), time.monotonic())
        self._queue.append(waiting)
        self._rows += rows
        self._arrived.set()
        try:
            async with asyncio.timeout(self._limits.timeout):
                return await waiting.answer
        except TimeoutError:
            raise Problem(
                503, f"no prediction was made within {self._limits.timeout:g} seconds: come again later.",
                retry_after=_RETRY,
            ) from None  # fmt: skip

    # -- the loop ---------------------------------------------------------------------------------------------
    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while await self._collected():
            batch = self._taken()
            if not batch:
                continue
            start = time.monotonic()
            answers = await loop.run_in_executor(self._thread, self._safely, [one.work for one in batch])
            rows = sum(len(one.work.rows) for one in batch)
            self._metrics.batch(rows, time.monotonic() - start, [start - one.since for one in batch])
            for one, answer in zip(batch, answers, strict=True):
                _give(one.answer, answer)

    def _safely(self, batch: Sequence[Work]) -> Sequence[bytes | Problem]:
        """Predict; whatever is raised, the queue goes on."""
        try:
            return self._predict(batch)
        except Exception:  # noqa: BLE001  # logged with its traceback
            _log.exception("a batch of %d requests failed", len(batch))
            return [Problem(500, FAILED)] * len(batch)

    async def _collected(self) -> bool:
        """Wait until there is a batch to predict; return False when there is none and none will come."""
        while not self._queue:
            if self._stopping:
                return False
            self._arrived.clear()
            await self._arrived.wait()
        await asyncio.sleep(0)  # what has arrived in the same moment is read
        deadline = time.monotonic() + self._limits.max_wait_ms / 1000
        expected = min(self._expected, self._limits.max_batch)
        while self._rows < expected and not self._stopping and (left := deadline - time.monotonic()) > 0:
            self._arrived.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                break
        return True

    def _taken(self) -> list[_Waiting]:
        """Take requests off the queue, as many as fit into a batch; a larger one goes alone."""
        batch: list[_Waiting] = []
        rows = 0
        while self._queue and (not batch or rows + len(self._queue[0].work.rows) <= self._limits.max_batch):
            one = self._queue.popleft()
            self._rows -= len(one.work.rows)
            if not one.answer.done():  # otherwise its time was over, or its client has gone
                batch.append(one)
                rows += len(one.work.rows)
        self._expected = rows if len(batch) > 1 else 1
        return batch


def _give(future: asyncio.Future[bytes], answer: bytes | Problem) -> None:
    if future.done():
        return
    if isinstance(answer, Problem):
        future.set_exception(answer)
    else:
        future.set_result(answer)
