"""Several gloo processes that wait for work: their start and imports cost more than most of what tests ask of them."""

from __future__ import annotations

import atexit
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

__all__ = ["several"]

PATIENCE = 600
"""Seconds after which work counts as hung."""

_worlds: dict[int, _World] = {}


def several(work: Callable[..., Any], world: int, *arguments: Any) -> list[Any]:
    """Return what `work(rank, *arguments)` gave in each of several gloo processes."""
    if world not in _worlds:
        _worlds[world] = _World(world)
    try:
        return _worlds[world].run(work, arguments)
    except BaseException:
        _worlds.pop(world).end()  # the others may wait for one that failed
        raise


class _World:
    def __init__(self, size: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(["tests.processes.trainings"])  # one import for all of them
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, size, port, there), daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)
        atexit.register(self.end)

    def run(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
        for pipe in self.pipes:
            pipe.send((work, arguments))
        found = []
        for rank, pipe in enumerate(self.pipes):
            assert pipe.poll(PATIENCE), f"process {rank} did not answer"
            value, error = pipe.recv()
            assert error is None, f"in process {rank}:\n{error}"
            found.append(value)
        return found

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def _serve(rank: int, world: int, port: int, pipe: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    while True:
        try:
            work, arguments = pipe.recv()
        except EOFError:
            return
        torch.manual_seed(0)
        try:
            pipe.send((work(rank, *arguments), None))
        except BaseException:  # noqa: BLE001 - whatever it was, it is told
            pipe.send((None, traceback.format_exc()))
            return
