"""SIGTERM under load: not ready at once, every request that was sent is answered, exit code 0, within the bound."""

from __future__ import annotations

import itertools
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

import httpx
import pytest

from tests.end_to_end.phiserve_process import ServerProcess, client_of, serving
from tests.end_to_end.test_operations import Metrics, large_picture

CALLERS = 6
WAIT_S = 30
TRIES = 5


class Load:
    """Callers that send one request after the other until the port is closed, and what became of each request.

    Half of them reuse their connection, the other half open one for each request.
    """

    def __init__(self, server: ServerProcess, image: bytes, callers: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.answered = threading.Semaphore(0)
        self._server, self._image = server, image
        self._address = (httpx.URL(server.url).host, httpx.URL(server.url).port)
        self._pool = ThreadPoolExecutor(callers)
        self._callers = [self._pool.submit(self._call, reuses=index % 2 == 0) for index in range(callers)]

    def _call(self, *, reuses: bool) -> None:
        client = client_of(self._server)
        while True:
            outcome = self._outcome_of_one(client)
            if outcome == "port closed":
                break
            self.outcomes[outcome] += 1
            self.answered.release()
            if not reuses:
                client.close()
                client = client_of(self._server)
        client.close()

    def _outcome_of_one(self, client: httpx.Client) -> str:
        """How one request ended; "lost" if it was sent and got no whole answer while the port was open."""
        try:
            response = client.post("/classify", params={"budget_ms": 20_000}, content=self._image)
        except httpx.ConnectError:
            return "port closed"
        except httpx.TransportError:
            # Connections that the kernel completed and nobody accepted yet are reset by it when the port is closed.
            return "port closed" if self._port_is_closed() else "lost"
        if response.status_code == 503:
            return response.json()["type"]
        return str(response.status_code)

    def _port_is_closed(self) -> bool:
        try:
            socket.create_connection(self._address, WAIT_S).close()
        except ConnectionRefusedError:
            return True
        return False

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.answered.acquire(timeout=WAIT_S), "the load is not answered"

    def wait_for_more(self, count: int) -> None:
        """Until `count` requests have ended from here on."""
        while self.answered.acquire(blocking=False):
            pass
        self.wait_for(count)

    def join(self) -> None:
        for caller in self._callers:
            caller.result(WAIT_S)
        self._pool.shutdown()


@contextmanager
def loaded(flags, image: bytes, *more: str) -> Iterator[tuple[ServerProcess, Load]]:
    with serving(*flags, *more) as server:
        load = Load(server, image, CALLERS)
        load.wait_for(12)
        yield server, load


def until_unready(server: ServerProcess) -> None:
    """Until `/readyz` says 503; the probe in between proves that the process still answers."""
    ends_s = time.monotonic() + WAIT_S
    with client_of(server) as probe:
        while (ready := probe.get("/readyz")).status_code == 200:
            assert time.monotonic() < ends_s, "it stays ready"
        assert ready.status_code == 503
        assert "draining" in ready.json()["detail"]
        assert probe.get("/livez").status_code == 200


def test_sigterm_under_load_loses_nothing(profiled, lean_flags, espresso) -> None:
    """Not ready at once, still serving for the notice, then 503 as a problem; no request without an answer."""
    with loaded(lean_flags, espresso, "--drain-notice-s", "3600") as (server, load):
        server.stop()
        until_unready(server)
        answered = load.outcomes.copy()
        load.wait_for_more(3 * CALLERS)
        assert set(load.outcomes - answered) == {"200"}, "the notice is for load balancers to notice, so it is served"
        server.stop()  # ends the notice
        load.join()
        assert server.wait() == 0
    assert set(load.outcomes) <= {"200", "/problems/not-ready"}, load.outcomes
    messages = [line["message"] for line in server.log()]
    assert messages.index("SIGTERM received, draining") < messages.index("drained")
    assert not [line for line in server.log() if line["level"] in {"warning", "error"}]


def test_ctrl_c_under_load_loses_nothing(profiled, lean_flags, espresso) -> None:
    """SIGINT drains too, without a notice: what was in service is answered, and the process ends with 0."""
    with loaded(lean_flags, espresso, "--drain-notice-s", "3600") as (server, load):
        server.stop(signal.SIGINT)
        load.join()
        assert server.wait() == 0
    assert set(load.outcomes) <= {"200", "/problems/not-ready"}, load.outcomes
    assert "drained" in [line["message"] for line in server.log()]


def test_connections_are_told_to_end_during_the_notice(profiled, lean_flags, espresso) -> None:
    """A reused connection is answered with `Connection: close` once draining has begun; a second signal ends it."""
    with serving(*lean_flags, "--drain-notice-s", "3600") as server, client_of(server) as client:
        assert "close" not in client.post("/classify", content=espresso).headers.get("connection", "")
        server.stop()
        until_unready(server)
        during = client.post("/classify", content=espresso)
        assert (during.status_code, during.headers["connection"]) == (200, "close")
        server.stop()
        assert server.wait() == 0


@pytest.mark.parametrize("hurried", [False, True], ids=["by the bound", "by a second signal"])
def test_a_caller_that_stalls_does_not_keep_the_server(profiled, lean_flags, espresso, hurried) -> None:
    """Half a body that never goes on is answered 503 at the bound, or at the second signal, and the process ends."""
    timeout_s = "3600" if hurried else "0.5"
    with serving(*lean_flags, "--drain-notice-s", "0", "--drain-timeout-s", timeout_s) as server:
        url = httpx.URL(server.url)
        with socket.create_connection((url.host, url.port), WAIT_S) as stalling, client_of(server) as other:
            length = len(espresso)
            stalling.sendall(
                f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nX-Request-ID: slow\r\n\r\n".encode()
                + espresso[: length // 2]
            )
            assert other.get("/livez").status_code == 200
            server.stop()
            if hurried:
                server.wait_for_log("Waiting for connections to close")
                server.stop()
            answer = b"".join(iter(lambda: stalling.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"x-request-id: slow" in answer.lower()
        assert b"/problems/not-ready" in answer
        assert server.wait() == 0
    assert "drain ended early; what was left has been refused" in [line["message"] for line in server.log()]


def responses_of_a_drain_without_time(serve_flags) -> list[httpx.Response]:
    """Of four callers with 16 large pictures each, in whose service the server is told to end."""
    files = list(itertools.repeat(("image", ("large.jpg", large_picture(), "image/jpeg")), 16))
    bounds = ("--drain-notice-s", "0", "--drain-timeout-s", "0")
    with serving(*serve_flags, *bounds) as server, ThreadPoolExecutor(4) as callers:

        def call(_: int) -> httpx.Response:
            with client_of(server) as client:
                return client.post("/classify", params={"budget_ms": 30_000}, files=files)

        responses = [callers.submit(call, index) for index in range(4)]
        with client_of(server) as client:
            while Metrics(client).value("phiserve_admitted") <= 3 * 16 and not any(ended.done() for ended in responses):
                pass
        if any(ended.done() for ended in responses):
            wait(responses)  # whoever had not come in yet would find the port closed
        server.stop()
        ended = [response.result(WAIT_S) for response in responses]
        assert server.wait() == 0
    return ended


def test_what_is_in_service_when_the_bound_is_reached_is_told_so(profiled, serve_flags) -> None:
    """With no time to drain, requests in the queue get 503 instead of silence, and the process ends with 0."""
    for _ in range(TRIES):
        ended = responses_of_a_drain_without_time(serve_flags)
        statuses = {response.status_code for response in ended}
        assert statuses <= {200, 503}
        results = [result for response in ended if response.status_code == 200 for result in response.json()["results"]]
        assert {result["error"]["type"] for result in results if "error" in result} <= {"/problems/not-ready"}
        if 503 in statuses or any("error" in result for result in results):
            return
    raise AssertionError(f"{TRIES} times all was answered before the server heard that it is to end")
