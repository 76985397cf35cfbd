"""A server and everything it started: how much memory they hold together, and ending all of them by their ids.

Processes are told by a mark in their environment, which children inherit: some servers put workers into sessions of
their own, or leave them behind when the parent ends, so neither sessions nor parents would find all. Linux only
(proc(5)).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MARK = "BENCH_TREE"
GRACE_S = 15.0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """What was started by one `started`, as long as that block lasts."""

    leader: subprocess.Popen[bytes]
    mark: str

    def pids(self) -> list[int]:
        """Every process of the tree that is alive now."""
        wanted = f"{MARK}={self.mark}".encode()
        return [pid for pid in _all_pids() if wanted in _environment(pid)]

    def memory_mib(self) -> float:
        """Proportional set size of all together: what several share counts once."""
        return sum(_pss_kib(pid) for pid in self.pids()) / 1024

    def end(self, grace_s: float = GRACE_S) -> list[int]:
        """Ask the leader to end, wait, and kill whatever is left; returns the ids of those."""
        if self.leader.poll() is None:
            self.leader.terminate()
        # Waiting for the leader also takes it off the list of processes.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.leader.wait(grace_s)
        stubborn: list[int] = []
        while left := self.pids():
            stubborn += [pid for pid in left if pid not in stubborn]
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.leader.wait(_LOOK_S)
            time.sleep(_LOOK_S)
        return stubborn


@contextlib.contextmanager
def started(
    command: Sequence[str | Path], environment: Mapping[str, str], log: IO[bytes], cwd: Path
) -> Iterator[ProcessTree]:
    """Start `command` in a session of its own, writing to `log`; all of it has ended when the block is left."""
    mark = secrets.token_hex(8)
    leader = subprocess.Popen(
        command, env={**environment, MARK: mark}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd,
        start_new_session=True,
    )  # fmt: skip
    tree = ProcessTree(leader, mark)
    try:
        yield tree
    finally:
        tree.end()


def _all_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    """As the process was started with; empty for one that has ended or is not ours."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _pss_kib(pid: int) -> int:
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
