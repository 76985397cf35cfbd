"""A small Hugging Face hub on loopback: model info, resolve with its redirect to a CDN, ranges, and its refusals."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server holds and how it misbehaves; `requests` is what it was asked."""

    repository: str
    content: bytes
    licence: str | None = "apache-2.0"
    listed_sha256: str | None = None
    lists_hash: bool = True
    gated: bool = False
    status: int | None = None
    cut_after_bytes: int | None = None
    ignores_ranges: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    endpoint: str = ""

    @property
    def sha256(self) -> str:
        return self.listed_sha256 or hashlib.sha256(self.content).hexdigest()

    def ranges(self) -> list[str | None]:
        return [asked for method, path, asked in self.requests if method == "GET" and path.startswith("/cdn/")]


@contextmanager
def serve(hub: Hub):
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Quiet."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.hub, self.path.partition("?")[0]
        hub.requests.append((self.command, path, self.headers.get("Range")))
        if hub.status is not None:
            self.answer(hub.status)
        elif path.startswith("/cdn/"):
            self.send_content()
        elif path in (f"/api/models/{hub.repository}/revision/{revision}" for revision in ("main", COMMIT)):
            self.answer(200, body=json.dumps(self.model_info()).encode())
        elif path.startswith(f"/{hub.repository}/resolve/"):
            self.resolve(path)
        else:
            self.answer(404, {"X-Error-Code": "RepoNotFound"})

    def model_info(self):
        lfs = {"sha256": self.hub.sha256, "size": len(self.hub.content), "pointerSize": 134}
        weights = {"rfilename": "model.safetensors", "size": len(self.hub.content), "blobId": "b" * 40}
        return {
            "_id": "1",
            "id": self.hub.repository,
            "sha": COMMIT,
            "gated": "auto" if self.hub.gated else False,
            "cardData": {"license": self.hub.licence} if self.hub.licence else {},
            "siblings": [{"rfilename": "README.md"}, weights | ({"lfs": lfs} if self.hub.lists_hash else {})],
        }

    def resolve(self, path):
        if self.hub.gated:
            return self.answer(401, {"X-Error-Code": "GatedRepo"})
        if path != f"/{self.hub.repository}/resolve/{COMMIT}/model.safetensors":
            return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        headers = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{self.hub.sha256}"',
            "X-Linked-Size": str(len(self.hub.content)),
            # Another host name, as the real hub's CDN has.
            "Location": f"http://localhost:{self.server.server_port}/cdn/{self.hub.sha256}",
        }
        return self.answer(302, headers)

    def send_content(self):
        content, start = self.hub.content, 0
        asked = self.headers.get("Range")
        if asked and not self.hub.ignores_ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        part = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(part)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.hub.cut_after_bytes is not None:
            part, self.hub.cut_after_bytes = part[: self.hub.cut_after_bytes], None
            self.close_connection = True
        if self.command == "GET":
            self.wfile.write(part)

    def answer(self, status, headers=None, body=b""):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
