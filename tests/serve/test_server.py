"""A real server over real sockets: every request gets an answer, in a burst, from the slow, and while it stops."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import rows_of_table

OPTIONS = ("--max-queue", "200", "--max-rows", "20", "--max-body-mb", "1", "--read-timeout", "1.5", "--threads", "1")


class Server:
    """A running `lepton serve`."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "lepton", "serve", str(folder), "--port", "0", "--json", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.host, port = json.loads(line)["address"].removeprefix("http://").split(":")
        self.port = int(port)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=20)

    def ask(self, path: str, body: bytes | str | None = None, method: str | None = None) -> tuple[int, Any]:
        one = http.client.HTTPConnection(self.host, self.port, timeout=20)
        one.request(method or ("GET" if body is None else "POST"), path, body)
        answer = one.getresponse()
        content = answer.read()
        one.close()
        return answer.status, json.loads(content) if content.startswith(b"{") else content.decode()

    @property
    def memory(self) -> float:
        """Megabytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    server = Server(folder, *options)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


@pytest.fixture(scope="module")
def server(table_folder: Path) -> Iterator[Server]:
    with serving(table_folder, *OPTIONS) as found:
        yield found
        assert found.stop() == 0


def body_of(number: int) -> bytes:
    return json.dumps({"rows": rows_of_table(number)}).encode()


def head_of(body: bytes, *more: str, length: int | None = None) -> bytes:
    lines = ["POST /predict HTTP/1.1", "Host: here", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, *more, "", ""]).encode()


def answer_of(one: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Read one answer of a connection: status, headers, content."""
    answer = http.client.HTTPResponse(one)
    answer.begin()
    content = answer.read()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, headers, json.loads(content)


# -- bodies -------------------------------------------------------------------------------------------------------
def test_a_body_too_large_is_answered_though_it_was_sent_whole(server: Server) -> None:
    large = b" " * 30_000_000  # more than the kernel's buffers hold: the client is still writing when it is refused
    status, content = server.ask("/predict", large)
    assert status == 413 and "of 30000000 bytes is larger than the limit of 1000000 bytes" in content["detail"]


def test_a_body_too_large_without_a_length(server: Server) -> None:
    one = http.client.HTTPConnection(server.host, server.port, timeout=20)
    one.request("POST", "/predict", iter([b" " * 100_000] * 100), encode_chunked=True)
    answer = one.getresponse()
    assert answer.status == 413 and "larger than the limit of 1000000 bytes" in json.loads(answer.read())["detail"]
    one.close()


def test_a_length_that_is_told_is_refused_before_it_is_sent(server: Server) -> None:
    with server.connect() as one:
        one.sendall(head_of(b"", length=10**12))
        assert answer_of(one)[0] == 413


def test_memory_is_bounded(server: Server) -> None:
    before = server.memory
    for _ in range(3):
        threads = [threading.Thread(target=server.ask, args=("/predict", b" " * 8_000_000)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert server.memory - before < 60  # of 192 MB that were sent


# -- the slow -----------------------------------------------------------------------------------------------------
def test_a_head_that_does_not_come(server: Server) -> None:
    silent, slow = server.connect(), server.connect()
    start = time.monotonic()
    slow.sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\n")
    with silent, slow:
        for one in (silent, slow):
            status, headers, content = answer_of(one)
            assert status == 408 and headers["connection"] == "close"
            assert content["detail"] == "the head of the request did not come within 1.5 seconds."
        assert 1.2 < time.monotonic() - start < 10


def test_a_second_head_that_does_not_come(server: Server) -> None:
    with server.connect() as one:
        one.sendall(head_of(body_of(1)) + body_of(1))
        assert answer_of(one)[0] == 200
        one.sendall(b"POST /pre")
        assert answer_of(one)[0] == 408


def test_a_body_that_does_not_come(server: Server) -> None:
    body = body_of(2)
    with server.connect() as one, server.connect() as other:
        one.sendall(head_of(body) + body[:-1])
        other.sendall(head_of(body))
        for letter in body[:10]:  # one letter now and then does not help
            other.sendall(bytes([letter]))
            time.sleep(0.02)
        assert server.ask("/predict", body)[0] == 200  # nobody else waits for the slow
        for slow in (one, other):
            status, headers, content = answer_of(slow)
            assert status == 408 and headers["connection"] == "close"
            assert content["detail"] == "the body did not come within 1.5 seconds."


def test_a_client_that_goes_away(server: Server) -> None:
    for _ in range(20):
        with server.connect() as one:
            one.sendall(head_of(body_of(5)) + body_of(5))
    assert server.ask("/predict", body_of(1))[0] == 200
    deadline = time.monotonic() + 5
    while "lepton_open_requests 1\n" not in server.ask("/metrics")[1]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_no_http(server: Server) -> None:
    with server.connect() as one:
        one.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 is not for us\r\n\r\n")
        assert one.recv(1000).startswith(b"HTTP/1.1 400")


# -- the many -----------------------------------------------------------------------------------------------------
def burst(server: Server, clients: int, requests: int, rows: int) -> Counter[int]:
    """Let clients ask at the same time; return how many answers had which status."""
    body = body_of(rows)
    statuses: Counter[int] = Counter()
    ready = threading.Barrier(clients)

    def client() -> None:
        one = http.client.HTTPConnection(server.host, server.port, timeout=30)
        ready.wait()
        for _ in range(requests):
            one.request("POST", "/predict", body)
            answer = one.getresponse()
            content = json.loads(answer.read())
            statuses[answer.status] += 1
            if answer.status == 503:
                assert "come again later" in content["detail"] and answer.getheader("retry-after") == "1"
            else:
                assert len(content["predictions"]) == rows
        one.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def test_a_burst_of_50_clients(server: Server) -> None:
    before = server.memory
    assert burst(server, clients=50, requests=6, rows=1) == {200: 300}
    assert server.memory - before < 40


def test_a_burst_above_the_queue_loses_nothing(server: Server) -> None:
    statuses = burst(server, clients=50, requests=3, rows=20)  # up to 1000 rows for a queue of 200
    assert set(statuses) <= {200, 503} and sum(statuses.values()) == 150
    assert statuses[200] >= 10
    assert server.ask("/predict", body_of(20))[0] == 200


# -- the end ------------------------------------------------------------------------------------------------------
def test_what_was_begun_is_answered_before_it_stops(table_folder: Path) -> None:
    body = body_of(3)
    with serving(table_folder, *OPTIONS[:-2], "--read-timeout", "10") as server:
        begun = [server.connect() for _ in range(20)]
        idle = server.connect()
        for one in begun:
            one.sendall(head_of(body) + body[:20])
        server.ask("/health")
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        with pytest.raises(ConnectionRefusedError):
            while time.monotonic() < deadline:
                server.connect().close()
                time.sleep(0.02)
        for one in begun:
            one.sendall(body[20:])
        for one in begun:
            status, _, content = answer_of(one)
            assert status == 200 and len(content["predictions"]) == 3
            one.close()
        assert idle.recv(100) == b""
        idle.close()
        assert server.process.wait(10) == 0


# -- the beginning ------------------------------------------------------------------------------------------------
def refused(*arguments: str) -> str:
    from typer.testing import CliRunner

    from lepton.cli._main import app

    done = CliRunner().invoke(app, ["serve", *arguments])
    assert done.exit_code == 2
    return done.output


def test_a_changed_byte_is_not_served(table_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(table_folder, tmp_path / "copy"))
    content = bytearray((copy / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.onnx").write_bytes(content)
    assert "model.onnx was changed after the export" in refused(str(copy))


def test_an_address_that_is_taken(server: Server, table_folder: Path) -> None:
    said = refused(str(table_folder), "--port", str(server.port))
    assert f"cannot listen at '127.0.0.1', port {server.port}: Address already in use" in said


FRESH = """
import os, sys, threading, time, urllib.request
from lepton.cli._main import app
def look():
    time.sleep(0.2)
    rooms = {name.split(".")[1] for name in sys.modules if name.startswith("lepton.")}
    print(",".join(sorted(rooms)), file=sys.stderr, flush=True)
    os.kill(os.getpid(), 2)
import lepton.serve
real = lepton.serve.serve
def serve(model, *, started, **options):
    real(model, started=lambda address: threading.Thread(target=look).start(), **options)
lepton.serve.serve = serve
app(["serve", sys.argv[1], "--port", "0"])
"""


def test_no_training_code_is_imported_and_ctrl_c_ends_it_well(table_folder: Path) -> None:
    command = [sys.executable, "-c", FRESH, str(table_folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    rooms = set(done.stderr.split()[-1].split(","))
    assert "serve" in rooms and rooms <= {"cli", "data", "errors", "export", "serve", "tasks", "audio"}
