"""The queue: who asks together is predicted together, who asks alone never waits, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from lepton.errors import ConfigurationError
from lepton.serve import Limits
from lepton.serve._batching import Batcher
from lepton.serve._engine import Work
from lepton.serve._metrics import Metrics
from lepton.serve._problem import Problem
from tests.serve.conftest import Gate


def work(*values: int) -> Work:
    return Work([{"value": value} for value in values], ("t",))


def echo(batch: Sequence[Work]) -> list[bytes | Problem]:
    """Say each row's value; 113 is wrong, and 114 breaks everything."""
    if any(row["value"] == 114 for one in batch for row in one.rows):
        raise MemoryError("no memory")
    return [
        Problem(422, "unlucky")
        if any(row["value"] == 113 for row in one.rows)
        else bytes(row["value"] % 256 for row in one.rows)
        for one in batch
    ]


def running(limits: Limits, talk: Callable[[Batcher, Gate], Awaitable[None]]) -> Gate:
    gate = Gate(echo)

    async def main() -> None:
        batcher = Batcher(gate, limits, Metrics())
        batcher.start()
        try:
            await talk(batcher, gate)
        finally:
            gate.open.set()
            await batcher.stop()

    asyncio.run(main())
    return gate


async def reached(gate: Gate) -> None:
    await asyncio.get_running_loop().run_in_executor(None, gate.reached.wait, 10)


def test_what_waits_is_predicted_together_and_each_gets_its_own() -> None:
    async def talk(batcher: Batcher, gate: Gate) -> None:
        first = asyncio.create_task(batcher.answer(work(0)))
        await reached(gate)
        others = [asyncio.create_task(batcher.answer(work(i, i + 1))) for i in range(1, 8)]
        await asyncio.sleep(0)
        assert batcher.rows == 14
        gate.open.set()
        assert await first == bytes([0])
        assert await asyncio.gather(*others) == [bytes([i, i + 1]) for i in range(1, 8)]

    assert running(Limits(max_batch=8), talk).sizes == [1, 8, 6]


def test_a_wrong_one_is_told_so_and_the_others_answered() -> None:
    async def talk(batcher: Batcher, gate: Gate) -> None:
        gate.open.set()
        found = await asyncio.gather(*(batcher.answer(work(i)) for i in (12, 113, 14)), return_exceptions=True)
        assert found[0] == bytes([12]) and found[2] == bytes([14])
        assert isinstance(found[1], Problem) and found[1].words == "unlucky"

    running(Limits(), talk)


def test_the_queue_survives_what_predicts(caplog: pytest.LogCaptureFixture) -> None:
    async def talk(batcher: Batcher, gate: Gate) -> None:
        gate.open.set()
        with pytest.raises(Problem, match="the server's log says why") as caught:
            await batcher.answer(work(114))
        assert caught.value.status == 500
        assert await batcher.answer(work(1)) == bytes([1])

    running(Limits(), talk)
    assert "no memory" in caplog.text


def test_a_request_larger_than_a_batch_goes_alone() -> None:
    async def talk(batcher: Batcher, gate: Gate) -> None:
        first = asyncio.create_task(batcher.answer(work(1)))
        await reached(gate)
        both = asyncio.gather(batcher.answer(work(*range(20, 40))), batcher.answer(work(5)))
        await asyncio.sleep(0)
        gate.open.set()
        assert await both == [bytes(range(20, 40)), bytes([5])]
        await first

    assert running(Limits(max_batch=4), talk).sizes == [1, 20, 1]


def test_a_client_alone_never_waits() -> None:
    async def talk(batcher: Batcher, gate: Gate) -> None:
        gate.open.set()
        start = time.monotonic()
        for value in range(20):
            await batcher.answer(work(value))
        assert time.monotonic() - start < 5  # 20 waits would be 100 seconds

    running(Limits(max_wait_ms=5000), talk)


def test_many_clients_find_each_other_again() -> None:
    """Clients that answer at a slightly different pace still fill batches, since each waits for as many as before."""

    async def talk(batcher: Batcher, gate: Gate) -> None:
        async def client(number: int) -> None:
            for _ in range(6):
                await batcher.answer(work(number))
                await asyncio.sleep(0.001 * number)

        gate.open.set()
        await asyncio.gather(*(client(number) for number in range(8)))

    sizes = running(Limits(max_wait_ms=2000), talk).sizes
    assert sum(sizes) == 48 and sizes[:5] == [8] * 5


def test_a_batch_does_not_wait_longer_than_told() -> None:
    async def talk(batcher: Batcher, gate: Gate) -> None:
        gate.open.set()
        await asyncio.gather(*(batcher.answer(work(number)) for number in range(8)))
        start = time.monotonic()
        await batcher.answer(work(1))  # seven are missed
        assert 0.05 <= time.monotonic() - start < 5

    running(Limits(max_wait_ms=60), talk)


def test_a_queue_of_twice_the_limit() -> None:
    async def talk(batcher: Batcher, gate: Gate) -> None:
        first = asyncio.create_task(batcher.answer(work(0)))
        await reached(gate)
        tasks = [asyncio.create_task(batcher.answer(work(i))) for i in range(20)]
        await asyncio.sleep(0.01)
        refused = [task for task in tasks if task.done()]
        assert len(refused) == 10 and batcher.rows == 10
        gate.open.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert found[:10] == [bytes([i]) for i in range(10)]
        for problem in found[10:]:
            assert isinstance(problem, Problem) and problem.status == 503 and problem.retry_after == 1
            assert "10 rows are waiting, and 1 more would be above the limit of 10" in problem.words
        await first
        assert await batcher.answer(work(7)) == bytes([7])  # and then there is room again

    running(Limits(max_queue=10, max_rows=5), talk)


def test_who_waits_too_long_is_told_so_and_not_predicted() -> None:
    async def talk(batcher: Batcher, gate: Gate) -> None:
        tasks = [asyncio.create_task(batcher.answer(work(i))) for i in range(2)]
        await reached(gate)
        late = asyncio.create_task(batcher.answer(work(1, 2, 3)))
        found = await asyncio.gather(*tasks, late, return_exceptions=True)
        assert {problem.status for problem in found if isinstance(problem, Problem)} == {503}
        assert "no prediction was made within 0.1 seconds" in str(found[2])
        gate.open.set()
        assert await batcher.answer(work(4)) == bytes([4])

    assert running(Limits(timeout=0.1), talk).sizes == [2, 1]


def test_stopping_answers_what_waits_and_takes_nothing_more() -> None:
    async def talk(batcher: Batcher, gate: Gate) -> None:
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(batcher.answer(work(0)))]
        await reached(gate)
        tasks += [asyncio.create_task(batcher.answer(work(i))) for i in range(1, 30)]
        await asyncio.sleep(0)
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        with pytest.raises(Problem, match="the server is stopping"):
            await batcher.answer(work(1))
        gate.open.set()
        await stopping
        assert await asyncio.gather(*tasks) == [bytes([i]) for i in range(30)]

    running(Limits(max_batch=4), talk)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch": 0}, "max_batch must be a whole number of at least 1, but it is 0"),
        ({"max_wait_ms": -1}, "max_wait_ms must be a number of milliseconds of at least 0"),
        ({"timeout": float("-inf")}, "timeout must be a number of seconds above 0"),
        ({"max_rows": 2000}, "max_rows must be at most max_queue, 1024"),
        ({"max_body": 1 << 40}, "max_bodies must be at least max_body"),
    ],
)
def test_limits_that_are_none(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Limits(**options)
