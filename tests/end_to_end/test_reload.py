"""A new version of the store under a serving process: it takes over without a lost request, or is refused by name."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.end_to_end.phiserve_process import (
    END_TIMEOUT_S,
    ENVIRONMENT,
    PHISERVE,
    START_TIMEOUT_S,
    ServerProcess,
    client_of,
    serving,
)
from tests.end_to_end.test_operations import Metrics

TOKEN = "a-token-of-this-test"


class Store:
    """A copy of the built store that shows the variants it is told to, as a build would have left it."""

    def __init__(self, built: Path, root: Path) -> None:
        self.root = shutil.copytree(built, root)
        self._index = json.loads((root / "store.json").read_text())

    def show(self, *names: str) -> None:
        shown = self._index | {"variants": {name: self._index["variants"][name] for name in names}}
        (self.root / "next").write_text(json.dumps(shown))
        (self.root / "next").replace(self.root / "store.json")  # at once, as builds do it

    def graph_of(self, name: str) -> Path:
        return self.root / name / self._index["variants"][name]["version"] / "model.onnx"


@pytest.fixture
def store(profiled, lite_store, tmp_path) -> Store:
    """Lite0 and Lite1 of it are shown; the profile beside them is of all three."""
    copied = Store(lite_store, tmp_path / "store")
    copied.show("lite0", "lite1")
    return copied


@pytest.fixture
def reloadable(store, tmp_path):
    """Loads with half a core: callers here have budgets that a slower run does not miss."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    flags = ("--batch-size-max", "1", "--admin-token-file", token, "--reload-core-share", "0.5")
    with serving("--store", store.root, *flags) as server:
        yield server


class Callers:
    """Callers that send one request after the other while the block lasts, and how each ended."""

    def __init__(self, server: ServerProcess, image: bytes, count: int) -> None:
        self.outcomes: Counter[tuple[int, str]] = Counter()
        self.answers = threading.Semaphore(0)
        self._server, self._image = server, image
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._calls = [self._pool.submit(self._call) for _ in range(count)]

    def _call(self) -> None:
        with client_of(self._server) as client:
            while not self._over.is_set():
                response = client.post("/classify", params={"budget_ms": 20_000}, content=self._image)
                name = response.json()["variant"]["name"] if response.status_code == 200 else response.text
                self.outcomes[response.status_code, name] += 1
                self.answers.release()

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.answers.acquire(timeout=60), "callers got no answers"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for call in self._calls:
            call.result()
        self._pool.shutdown()


def reload(client: httpx.Client) -> httpx.Response:
    return client.post("/admin/reload", headers={"Authorization": f"Bearer {TOKEN}"})


def names(client: httpx.Client) -> list[str]:
    return [row["name"] for row in client.get("/variants").json()["variants"]]


def test_a_new_version_takes_over_under_load(store, reloadable, espresso) -> None:
    """SIGHUP swaps in a store with another set of variants: every request is answered, by one that was served then."""
    with client_of(reloadable) as client, Callers(reloadable, espresso, 3) as callers:
        callers.wait_for(10)
        assert names(client) == ["lite1", "lite0"]
        store.show("lite0", "lite2")
        reloadable.stop(signal.SIGHUP)
        reloadable.wait_for_log("which took over after")
        assert client.get("/readyz").status_code == 200
        assert names(client) == ["lite2", "lite0"]
        callers.wait_for(2 * 3 + 10)
        gone = client.post("/classify", params={"variant": "lite1"}, content=espresso)
        assert (gone.status_code, "lite2" in gone.json()["detail"]) == (404, True)
    assert {status for status, _ in callers.outcomes} == {200}, callers.outcomes
    assert {name for _, name in callers.outcomes} <= {"lite0", "lite1", "lite2"}
    with client_of(reloadable) as client:
        assert client.post("/classify", params={"variant": "lite2"}, content=espresso).status_code == 200
        metrics = Metrics(client)
        assert metrics.value("phiserve_store_generation") == 2
        assert metrics.value("phiserve_store_reloads_total", outcome="loaded") == 1


def test_a_damaged_version_is_refused_and_the_old_one_serves_on(store, reloadable, espresso) -> None:
    """Log, metric and answer say which file; mended, the version takes over; asked again, nothing is to be done."""
    graph = store.graph_of("lite2")
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    store.show("lite0", "lite1", "lite2")
    with client_of(reloadable) as client:
        assert client.post("/admin/reload").status_code == 401
        refused = reload(client)
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/store-refused")
        assert str(graph) in refused.json()["detail"]
        assert reloadable.wait_for_log("the store was not reloaded")
        reloadable.stop(signal.SIGHUP)
        line = json.loads(reloadable.wait_for_log("the store was not reloaded"))
        assert (line["level"].lower(), str(graph) in line["message"]) == ("error", True)
        assert names(client) == ["lite1", "lite0"]
        assert client.post("/classify", params={"variant": "lite1"}, content=espresso).status_code == 200
        graph.write_bytes(content)
        taken = reload(client)
        assert (taken.status_code, taken.json()["variants"]) == (200, ["lite2", "lite1", "lite0"])
        assert reload(client).json() | {"took_s": 0} == taken.json() | {"took_s": 0, "changed": False}
        metrics = Metrics(client)
        assert metrics.total("phiserve_store_info", version=taken.json()["version"]) == 1
        assert metrics.value("phiserve_store_reloads_total", outcome="refused") == 2
        assert metrics.value("phiserve_store_reloads_total", outcome="unchanged") == 1
    reloadable.stop()
    assert reloadable.wait() == 0


def test_signals_during_the_start_are_one_reload_after_it(store, tmp_path, espresso) -> None:
    """SIGHUP neither ends a server that starts nor loads its store twice at once: it waits until it is ready."""
    token = tmp_path / "token"
    os.mkfifo(token)
    server = ServerProcess("--store", store.root, "--batch-size-max", "1", "--admin-token-file", token)
    try:
        with token.open("w") as writer:  # returns when the server reads it, before it has loaded anything
            server.stop(signal.SIGHUP)
            server.stop(signal.SIGHUP)
            writer.write(TOKEN)
        assert "which is served already" in server.wait_for_log("the store holds version")
        with client_of(server) as client:
            assert client.post("/classify", content=espresso).status_code == 200
            metrics = Metrics(client)
            assert metrics.value("phiserve_store_reloads_total", outcome="unchanged") == 1
            assert metrics.value("phiserve_store_generation") == 1
        server.stop()
        assert server.wait() == 0
        assert sum("SIGHUP received" in line["message"] for line in server.log()) == 1
    finally:
        server.close()


def test_a_server_whose_terminal_is_closed_ends(profiled, lean_flags) -> None:
    """There SIGHUP means that nobody looks any more: the server drains as for Ctrl-C, and is not left behind."""
    screen, terminal = os.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", PHISERVE, "serve", "--port", "0", "--grpc", "off", *lean_flags],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=ENVIRONMENT,
    )
    os.close(terminal)
    try:
        # What it shows must be read, or it would wait for that.
        while process.stdout not in select.select([screen, process.stdout], [], [], START_TIMEOUT_S)[0]:
            os.read(screen, 65_536)
        os.close(screen)
        assert process.wait(END_TIMEOUT_S) == 0
    finally:
        process.kill()
        process.communicate()
