"""Requests per second of `lepton serve`: one client after itself, and 50 at once, with and without batching.

python benchmarks/serve.py [SECONDS]

For a server of the usual speed, uvloop and httptools should be installed: pip install "uvicorn[standard]".

The server is a process of its own, asked over loopback by raw sockets in this one. "one client" sends a row, waits for
the answer, and sends the next. Every request must get an answer; they are counted.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import lepton
from lepton.balance import Equal
from lepton.data import InputEncoder, LabelRule, TensorLoader, describe_columns, read_table
from lepton.export import ExportedModel, export_model
from lepton.recipes.digits import Scenes, make_model, make_scenes
from lepton.recipes.digits.data import HEIGHT, PIXEL_CLASSES, WIDTH
from lepton.serve._columns import asked_columns
from lepton.serve._engine import Engine, Work
from lepton.train import Trainer

CLIENTS = 50
TICKS = os.sysconf("SC_CLK_TCK")


# -- models -------------------------------------------------------------------------------------------------------
class Grey(nn.Module):
    """Pictures as bytes [B, 3, H, W] to what the demonstration's trunk reads, [B, 1, H, W] in [0, 1]."""

    def forward(self, image: Tensor) -> Tensor:
        return image[:, :1].float() / 255


class PictureTrunk(nn.Sequential):
    """The demonstration's trunk on pictures as bytes."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)  # type: ignore[no-any-return]


def export_scenes(folder: Path, epochs: int = 2, scenes: int = 1200) -> tuple[Path, list[bytes]]:
    """Train the demonstration's network, export it for PNG files, and return its folder and some PNG files."""
    parts: Scenes = make_scenes(scenes, 100, seed=0)
    model = make_model(("left", "right", "pixels", "sum"), Equal(), seed=0)
    Trainer(model, max_epochs=epochs, learning_rate=2e-3).fit(
        TensorLoader(parts.train, 64, shuffle=True, drop_last=True), TensorLoader(parts.val, 100)
    )
    model.trunk = PictureTrunk(Grey(), model.trunk)
    (folder / "pictures").mkdir(parents=True)
    paths = [folder / "pictures" / f"{number}.png" for number in range(len(parts.test))]
    assert isinstance(parts.test.inputs, Tensor)
    for path, scene in zip(paths, parts.test.inputs[:, 0], strict=True):
        Image.fromarray((scene * 255).round().to(torch.uint8).numpy()).save(path)
    rows = read_table({"scene": [str(path) for path in paths]})
    encoder = InputEncoder.fit(rows, describe_columns(rows))
    digits = tuple(map(str, range(10)))
    rules = [
        LabelRule("left", "classification", ("left",), digits),
        LabelRule("right", "classification", ("right",), digits),
        LabelRule("pixels", "segmentation", ("pixels",), PIXEL_CLASSES),
        LabelRule("sum", "regression", ("sum",)),
    ]
    place = folder / "scenes"
    export_model(model, encoder, rules, rows, place, image_size=(HEIGHT, WIDTH), name="digits")
    return place, [path.read_bytes() for path in paths]


def export_table(folder: Path, rows: int = 2000) -> tuple[Path, list[dict[str, Any]]]:
    """Train a network on a table of six numbers and three categories, and return its folder and rows."""
    draw = np.random.default_rng(0)
    table: dict[str, Any] = {f"n{i}": draw.normal(size=rows) for i in range(6)}
    table |= {f"c{i}": np.array(list("abcdefgh"))[draw.integers(0, 8, rows)] for i in range(3)}
    labels = {"price": table["n0"] * 2 + draw.normal(size=rows), "sold": (table["n1"] > 0).astype(str)}
    run = lepton.fit(table | labels, ["price", "sold"], training={"max_epochs": 1}, folder=folder / "run", quiet=True)
    run.export(folder / "table")
    plain = {name: column.tolist() for name, column in table.items()}
    return folder / "table", [{name: plain[name][row] for name in plain} for row in range(200)]


# -- the server ---------------------------------------------------------------------------------------------------
@dataclass
class Server:
    """A running server."""

    address: tuple[str, int]
    process: subprocess.Popen[str]

    @property
    def rss(self) -> float:
        """Megabytes of memory that it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    @property
    def seconds(self) -> float:
        """Seconds of a processor that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """Start `lepton serve`, and end it by SIGTERM, after which it must leave with 0."""
    command = [sys.executable, "-m", "lepton", "serve", str(folder), "--port", "0", "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        host, port = json.loads(line)["address"].removeprefix("http://").split(":")
        yield Server((host, int(port)), process)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()


# -- the clients --------------------------------------------------------------------------------------------------
@dataclass
class Load:
    """What clients saw."""

    seconds: float
    sent: int
    statuses: Counter[int]
    latencies: list[float] = field(repr=False)
    client: float
    server: float

    @property
    def rate(self) -> float:
        return self.statuses[200] / self.seconds

    def quantile(self, share: float) -> float:
        """Milliseconds."""
        return float(np.quantile(self.latencies, share)) * 1000

    def row(self, name: str) -> str:
        failed = self.sent - self.statuses[200]
        return (
            f"{name:<34}{self.rate:>9.0f}{self.quantile(0.5):>9.1f}{self.quantile(0.99):>9.1f}{self.sent:>8}{failed:>7}"
            f"{self.server / self.sent * 1e6:>13.0f}{self.client / self.sent * 1e6:>13.0f}"
        )


HEAD = (
    f"{'':<34}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'sent':>8}{'failed':>7}{'server us/req':>13}{'client us/req':>13}"
)


def request_of(path: str, body: bytes, kind: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection:
    """A client that sends one request after the other."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.since = 0.0

    def ask(self, request: bytes) -> None:
        self.buffer = b""
        self.since = time.perf_counter()
        self.socket.sendall(request)

    def status(self) -> int | None:
        """Read what has come; return the status when the answer is whole."""
        part = self.socket.recv(1 << 18)
        if not part:
            return -1
        self.buffer += part
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return None
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        return int(head[9:12]) if len(body) >= length else None


def load(server: Server, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Let so many clients ask for so long; every request that was sent is waited for."""
    connections = [Connection(server.address) for _ in range(clients)]
    selector = selectors.DefaultSelector()
    for one in connections:
        selector.register(one.socket, selectors.EVENT_READ, one)
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    used, own, start = server.seconds, time.process_time(), time.perf_counter()
    end = start + seconds
    for number, one in enumerate(connections):
        one.ask(requests[number % len(requests)])
    sent, waiting = clients, clients
    while waiting:
        events = selector.select(timeout=60)
        assert events, f"{waiting} requests got no answer"
        for key, _ in events:
            one = key.data
            status = one.status()
            if status is None:
                continue
            now = time.perf_counter()
            statuses[status] += 1
            latencies.append(now - one.since)
            if now < end and status > 0:
                one.ask(requests[sent % len(requests)])
                sent += 1
            else:
                waiting -= 1
                selector.unregister(one.socket)
                one.socket.close()
    spent = time.perf_counter() - start
    assert sum(statuses.values()) == sent
    return Load(spent, sent, statuses, latencies, time.process_time() - own, server.seconds - used)


def measure(name: str, folder: Path, requests: Sequence[bytes], seconds: float, *options: str) -> None:
    print(f"\n{name}\n{HEAD}")
    rates = {}
    with serving(folder, "--threads", "1", *options) as server:
        load(server, requests, CLIENTS, 0.5)
        before = server.rss
        for words, clients in (("one client", 1), (f"{CLIENTS} clients", CLIENTS)):
            found = load(server, requests, clients, seconds)
            rates[clients] = found.rate
            print(found.row(words))
        print(f"memory of the server: {before:.0f} MB before, {server.rss:.0f} MB after")
    with serving(folder, "--threads", "1", "--max-batch", "1", *options) as server:
        load(server, requests, CLIENTS, 0.5)
        found = load(server, requests, CLIENTS, seconds)
        print(found.row(f"{CLIENTS} clients, --max-batch 1"))
    print(
        f"50 clients over one client: {rates[CLIENTS] / rates[1]:.1f} times; "
        f"over 50 clients without batching: {rates[CLIENTS] / found.rate:.1f} times"
    )


# -- where the time goes ------------------------------------------------------------------------------------------
BARE = """
import socket, uvicorn
async def app(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"600")]})
    await send({"type": "http.response.body", "body": b"x" * 600})
listener = socket.socket(proto=socket.IPPROTO_TCP)
listener.bind(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
uvicorn.Server(config).run(sockets=[listener])
"""


def bare(requests: Sequence[bytes], seconds: float) -> float:
    """Return the microseconds of a processor that uvicorn takes for a request that is answered with 600 letters."""
    process = subprocess.Popen([sys.executable, "-c", BARE], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        server = Server(("127.0.0.1", int(process.stdout.readline())), process)
        time.sleep(1)
        load(server, requests, CLIENTS, 0.5)
        found = load(server, requests, CLIENTS, seconds)
        return found.server / found.sent * 1e6
    finally:
        process.kill()


def alone(folder: Path, rows: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Return the microseconds of a processor for each row without HTTP: read, graph, answer; for 1 and 50 rows."""
    model = ExportedModel(folder, threads=1)
    engine, found = Engine(model, asked_columns(model.encoder), 64), {}
    for number in (1, CLIENTS):
        batch = [Work([row], tuple(model.tasks)) for row in rows[:number]]
        times = []
        for _ in range(60):
            start = time.process_time()
            engine(batch)
            times.append(time.process_time() - start)
        found[number] = float(np.median(times)) / number * 1e6
    return found


def explain(name: str, folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    found = alone(folder, rows)
    ratio = found[1] / found[CLIENTS]
    print(
        f"{name} without HTTP: {found[1]:.0f} us for one row, {found[CLIENTS]:.0f} us for one of {CLIENTS}: "
        f"{ratio:.1f} times"
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    with tempfile.TemporaryDirectory() as place:
        folder, pictures = export_scenes(Path(place))
        files = [request_of("/predict/file", picture, "image/png") for picture in pictures]
        measure("Demo model, one PNG a request", folder, files, seconds)
        folder, rows = export_table(Path(place))
        bodies = [json.dumps({"rows": [row]}).encode() for row in rows]
        asked = [request_of("/predict", body, "application/json") for body in bodies]
        measure("Table model, one row a request", folder, asked, seconds)
        print(f"\nuvicorn itself: {bare(asked, seconds):.0f} us a request")
        explain("demo model", Path(place) / "scenes", [{"scene": picture} for picture in pictures])
        explain("table model", folder, rows)
        body = json.dumps({"rows": rows[:50]}).encode()
        measure(
            "Table model, 50 rows a request",
            folder,
            [request_of("/predict", body, "application/json")],
            seconds,
            "--max-queue",
            "4000",
        )


if __name__ == "__main__":
    main()
