"""The container's health check, against a server that listens."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest


@contextlib.contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server on a free port that answers everything with `status`; its port, and the paths it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_health_is_readiness(status, code, healthcheck, monkeypatch) -> None:
    """Healthy exactly when /readyz on the server's own port answers 200."""
    with answering(status) as (port, asked):
        monkeypatch.setenv("PHISERVE_PORT", str(port))
        assert healthcheck.main() == code
    assert asked == ["/readyz"]


def test_no_server_is_not_healthy(healthcheck, monkeypatch, capsys) -> None:
    """Unhealthy, with a line that names the port, while nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening: nobody else can
        port = taken.getsockname()[1]
        monkeypatch.setenv("PHISERVE_PORT", str(port))
        assert healthcheck.main() == 1
    assert f"port {port}" in capsys.readouterr().err


def test_tls_is_asked_over_tls(healthcheck, monkeypatch, capsys) -> None:
    """Where the server has a certificate the question goes over TLS, which a plain server cannot answer."""
    with answering(200) as (port, asked):
        monkeypatch.setenv("PHISERVE_PORT", str(port))
        monkeypatch.setenv("PHISERVE_TLS_CERT", "/certificate.pem")
        assert healthcheck.main() == 1
    assert asked == []
    assert "/readyz" in capsys.readouterr().err
