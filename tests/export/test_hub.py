"""An exported folder goes to the Hugging Face Hub and comes back: the real client, with a small hub on this machine."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import pytest

import lepton

pytest.importorskip("huggingface_hub", reason="the client comes with pip install 'lepton-mtl[hf]'")
pytest.importorskip("onnxruntime", reason="an export needs pip install 'lepton-mtl[export]'")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files and a download of all need."""

    files: ClassVar[dict[str, bytes]] = {}
    created: ClassVar[list[dict[str, Any]]] = []

    @property
    def _here(self) -> str:
        return f"http://{self.headers['Host']}"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            self._json({"url": f"{self._here}/owner/houses", "name": "owner/houses", "id": "owner/houses"})
        elif "/preupload/" in self.path:
            wanted = json.loads(body)["files"]
            rule = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._json({"files": [{"path": file["path"], **rule} for file in wanted]})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._json(
                {"commitUrl": f"{self._here}/owner/houses/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            )
        else:
            self._json({})

    def do_GET(self) -> None:
        if "/resolve/" in self.path:
            self._file(send=True)
        elif "/tree/" in self.path:
            self._json([{"type": "file", "path": n, "size": len(f), "oid": "0"} for n, f in self.files.items()])
        else:
            siblings = [{"rfilename": name} for name in self.files]
            self._json({"id": "owner/houses", "sha": COMMIT, "siblings": siblings, "private": True, "tags": []})

    def do_HEAD(self) -> None:
        self._file(send=False)

    def _file(self, *, send: bool) -> None:
        found = self.files[unquote(self.path.rpartition("/")[2])]
        self.send_response(200)
        self.send_header("ETag", f'"{len(found)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        if send:
            self.wfile.write(found)

    def _json(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


CLIENT = """
import sys
from lepton.export import ExportedModel
there = ExportedModel(sys.argv[1]).push_to_hub("owner/houses", token="hf_x")
back = ExportedModel.from_pretrained("owner/houses")
print(there)
print(back.predict({"size": [3.0]}))
"""


def test_a_folder_goes_to_the_hub_and_comes_back(hub: str, tmp_path: Path) -> None:
    rows = {"size": list(range(40)), "price": [2.0 * size for size in range(40)]}
    run = lepton.fit(rows, ["price"], training={"max_epochs": 1}, folder=tmp_path / "run", quiet=True)
    run.export(tmp_path / "houses", rows=rows)
    outside = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(tmp_path / "houses")],
        env={**os.environ, **outside, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "price" in done.stdout and "owner/houses" in done.stdout
    assert set(Hub.files) >= {"manifest.json", "model.onnx", "README.md"}
    assert Hub.files["manifest.json"] == (tmp_path / "houses" / "manifest.json").read_bytes()
    made = Hub.created[0]  # which of the two the client says depends on its version
    assert made.get("private") is True or made.get("visibility") == "private"
