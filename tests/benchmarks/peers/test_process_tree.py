"""A real tree of processes: found whole, measured, and ended whole, also what left its session or ignores SIGTERM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.process_tree import ProcessTree, started

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads proc(5)")

# A leader that ends when asked to, and a worker in a session of its own that does not; both say when they are up.
LEADER = """
import subprocess, sys, time
worker = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
child = subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def worker_of(tree: ProcessTree, log: int) -> int:
    return int(os.fdopen(log, closefd=False).readline())


def test_a_worker_that_left_its_session_is_counted_and_ended_too(tmp_path):
    """Both processes are of the tree, their memory counts, and after the block neither lives; others do."""
    other = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    reading, writing = os.pipe()
    try:
        with (
            os.fdopen(writing, "wb") as log,
            started([sys.executable, "-c", LEADER], os.environ, log, tmp_path) as tree,
        ):
            worker = worker_of(tree, reading)
            assert sorted(tree.pids()) == sorted([tree.leader.pid, worker])
            assert tree.memory_mib() > 1
            assert alive(worker)
        assert not alive(worker)
        assert not alive(tree.leader.pid)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
        os.close(reading)


def test_who_had_to_be_killed_is_told(tmp_path):
    """Ending returns the ids of processes that outlived the leader's end."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as log, started([sys.executable, "-c", LEADER], os.environ, log, tmp_path) as tree:
        worker = worker_of(tree, reading)
        assert worker in tree.end()
        assert tree.pids() == []
    os.close(reading)
