"""The `phiserve` command as a real process: run to its end, or serving until it is told to stop."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx

PHISERVE = Path(sys.executable).with_name("phiserve")
START_TIMEOUT_S = 200
END_TIMEOUT_S = 60
# Nothing of the caller's own configuration reaches a test, but what one process compiles, the next need not. Where a
# request names no budget, it has one that is kept while other processes have the cores; where a test does not say
# otherwise, no load balancer has to notice that a server ends.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("PHISERVE_") and name != "PYTHONDONTWRITEBYTECODE"
} | {
    "COLUMNS": "200",
    "PHISERVE_BUDGET_MS_DEFAULT": "30000",
    "PHISERVE_DRAIN_NOTICE_S": "0",
    "PYTHONWARNINGS": "error",
}


def run_phiserve(*arguments: str | Path, timeout_s: float = END_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        [PHISERVE, *arguments], capture_output=True, text=True, check=False, timeout=timeout_s, env=ENVIRONMENT
    )


class ServerProcess:
    """A `phiserve serve` that was started; `url` waits for its announcement."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [PHISERVE, "serve", "--port", "0", "--grpc-port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        self._out, self._err = _Lines(self.process.stdout), _Lines(self.process.stderr)
        self._url: str | None = None
        self._grpc_address: str | None = None

    @property
    def url(self) -> str:
        """Where it serves, from the line that announces it."""
        if self._url is None:
            line = self._out.wait_for(lambda line: line.startswith("phiserve serves"), START_TIMEOUT_S)
            assert line is not None, "the server ended before it served:\n" + "\n".join(self._err.seen)
            self._url = line.rsplit(" ", 1)[-1]
        return self._url

    @property
    def grpc_address(self) -> str:
        """Host and port of its gRPC services, from the line that announces them."""
        if self._grpc_address is None:
            assert self.url, "it is announced before"
            line = self._out.wait_for(lambda line: "--url grpc" in line, START_TIMEOUT_S)
            assert line is not None, "the server announced no gRPC port"
            self._grpc_address = line.rpartition("://")[2]
        return self._grpc_address

    def wait_for_log(self, text: str) -> str:
        """The first line of the log, from here on, that holds `text`."""
        line = self._err.wait_for(lambda line: text in line, START_TIMEOUT_S)
        assert line is not None, f"the server ended without logging {text!r}: {self._err.seen}"
        return line

    def log(self) -> list[dict[str, Any]]:
        """The log lines so far; after `wait`, all of them."""
        return [json.loads(line) for line in self._err.seen]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = END_TIMEOUT_S) -> int:
        """The exit code; raises `subprocess.TimeoutExpired` if it does not end in time."""
        code = self.process.wait(timeout_s)
        self._out.join()
        self._err.join()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()


class _Lines:
    """Reads a pipe to its end, so that the process never blocks on it."""

    def __init__(self, pipe: IO[str] | None) -> None:
        assert pipe is not None
        self.seen: list[str] = []
        self._fresh: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, args=(pipe,))
        self._thread.start()

    def _read(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                self.seen.append(line.rstrip("\n"))
                self._fresh.put(self.seen[-1])
        self._fresh.put(None)

    def wait_for(self, wanted: Callable[[str], bool], timeout_s: float) -> str | None:
        """The next line that is `wanted`, or None if the pipe ends first; raises `queue.Empty` after a silence."""
        while (line := self._fresh.get(timeout=timeout_s)) is not None:
            if wanted(line):
                return line
        self._fresh.put(None)
        return None

    def join(self) -> None:
        self._thread.join()


@contextmanager
def serving(*arguments: str | Path) -> Iterator[ServerProcess]:
    """A server that is up, for as long as the block lasts."""
    server = ServerProcess(*arguments)
    try:
        assert server.url
        yield server
    finally:
        server.close()


def client_of(server: ServerProcess) -> httpx.Client:
    """Of a server without TLS: reading every certificate authority there is takes longer than most requests."""
    return httpx.Client(base_url=server.url, timeout=60, verify=False)
