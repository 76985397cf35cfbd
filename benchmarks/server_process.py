"""The server under test as a process of its own, with an account of who uses the machine's cores.

Starts `phiserve serve` on a free loopback port over a copy of the store without its profiles, so that the profile it
decides by was taken minutes before, on the same machine in the same state, and the operator's own is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.server_resources import core_seconds_of

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 120
END_TIMEOUT_S = 40


class ServerError(Exception):
    """The server did not start, or did not end."""


@dataclass(frozen=True, slots=True)
class CoreTime:
    """Core seconds used so far: by the server, by this process, and by everything on the machine.

    `machine_s` is None where the kernel does not tell (anywhere but on Linux).
    """

    server_s: float
    own_s: float
    machine_s: float | None

    @property
    def others_s(self) -> float:
        """Core seconds used by neither; 0 if unknown. The kernel counts in hundredths, so it is as coarse as that."""
        return 0.0 if self.machine_s is None else max(0.0, self.machine_s - self.server_s - self.own_s)

    def since(self, earlier: CoreTime) -> CoreTime:
        """What was used between two readings."""
        known = self.machine_s is not None and earlier.machine_s is not None
        return CoreTime(
            self.server_s - earlier.server_s,
            self.own_s - earlier.own_s,
            (self.machine_s or 0.0) - (earlier.machine_s or 0.0) if known else None,
        )


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server that is up at `url`, and at `grpc_url` if that was asked for."""

    url: str
    process: subprocess.Popen[str]
    grpc_url: str | None = None

    async def others(self, duration_s: float) -> float:
        """Cores in use by neither the server nor this process, on average over the next `duration_s`; 0 if unknown."""
        before = self.core_time()
        await asyncio.sleep(duration_s)
        return self.core_time().since(before).others_s / duration_s

    def event_loop_ns(self) -> int | None:
        """Core time of the thread that runs the event loop, which is the first; None where no kernel tells."""
        try:
            return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/schedstat").read_text().split()[0])
        except OSError:
            return None

    def core_time(self) -> CoreTime:
        """A reading of the account."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        return CoreTime(core_seconds_of(self.process.pid), own.ru_utime + own.ru_stime, _machine_seconds())


def _machine_seconds() -> float | None:
    """Busy time of all cores (proc(5), /proc/stat): everything but idle and waiting for disks."""
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, first.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(store: Path, variants: Sequence[str], *more: str, grpc: bool = False) -> Iterator[ServerProcess]:
    """A server over `variants` of `store`, freshly profiled, with `more` flags; drained when the block ends.

    No variants mean all.

    Raises:
        ServerError: it did not start; the message is what it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="phiserve-replay-") as folder:
        copy = Path(folder) / "store"
        shutil.copytree(store, copy, ignore=shutil.ignore_patterns("profiles", "provider-cache"))
        with (Path(folder) / "log").open("w+") as log:
            process = _start(copy, variants, more, log.fileno(), grpc=grpc)
            try:
                url = _announced_url(process, Path(log.name), "phiserve serves")
                yield ServerProcess(url, process, _announced_url(process, Path(log.name), "grpc://") if grpc else None)
            finally:
                _end(process)


def _start(store: Path, variants: Sequence[str], more: Sequence[str], log: int, *, grpc: bool) -> subprocess.Popen[str]:
    phiserve = Path(sys.executable).with_name("phiserve")
    flags = [flag for name in variants for flag in ("--variant", name)]
    flags += ["--grpc-port", "0"] if grpc else ["--grpc", "off"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PHISERVE_")}
    # A result names the commit of this working tree, so it is this tree that serves, whichever one is installed.
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.Popen(
        [phiserve, "serve", "--port=0", "--store", store, "--log-level=warning", *flags, *more],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
    )


def _announced_url(process: subprocess.Popen[str], log: Path, sign: str) -> str:
    """The URL at the end of the next line with `sign`; the pipe ends if the server does."""
    assert process.stdout is not None
    for line in process.stdout:
        if sign in line:
            return line.split()[-1]
    process.wait(START_TIMEOUT_S)
    raise ServerError(f"the server ended with code {process.returncode}: {log.read_text()[-2000:]}")


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise ServerError(f"the server had not drained {END_TIMEOUT_S} s after SIGINT") from None
    finally:
        if process.stdout is not None:
            process.stdout.close()


_BURN = "import os, sys\nos.setpriority(os.PRIO_PROCESS, 0, int(sys.argv[1]))\nwhile True: pass"


class BusyNeighbour:
    """Another process that burns one core while the block lasts, at the same priority as the server."""

    def __init__(self, server: ServerProcess) -> None:
        self._priority = os.getpriority(os.PRIO_PROCESS, server.process.pid)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, "-c", _BURN, str(self._priority)])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
