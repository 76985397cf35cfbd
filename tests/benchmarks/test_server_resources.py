"""What a process holds is read from the kernel: files and threads exactly, memory as it grows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.server_resources import core_seconds_of, resources_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# A process of its own: in one that runs tests, what others left behind comes and goes meanwhile.
HOLDER = """
import os, sys, threading
ended = threading.Event()
thread = threading.Thread(target=ended.wait)
print("nothing", flush=True)
sys.stdin.readline()
thread.start()
file, held = open(os.devnull), bytearray(b"x") * (64 * 1024**2)
print("one of each", flush=True)
sys.stdin.readline()
file.close()
del held
ended.set()
thread.join()
print("nothing again", flush=True)
sys.stdin.readline()
"""


def test_an_open_file_a_thread_and_memory_are_seen() -> None:
    """One more of each is one more, and memory that was written to is resident until it is given back."""
    found = []
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for said in ("nothing", "one of each", "nothing again"):
            assert process.stdout.readline().strip() == said
            found.append(resources_of(process.pid))
            process.stdin.write("\n")
            process.stdin.flush()
    before, during, after = found
    assert during.open_files == before.open_files + 1
    assert during.threads == before.threads + 1
    assert during.resident_bytes - before.resident_bytes > 60 * 1024**2
    assert during.anonymous_bytes <= during.resident_bytes <= during.resident_bytes_max
    assert after.open_files == before.open_files
    assert after.resident_bytes < during.resident_bytes - 60 * 1024**2


def test_a_process_that_ended_is_an_error() -> None:
    """Nobody is told that a server that is gone holds nothing."""
    with pytest.raises(OSError, match="proc"):
        resources_of(2**22 + 1)


# Works until its own account says that it did so for long enough.
WORKER = """
import os, sys
while sum(os.times()[:2]) < 0.2: pass
print("worked", flush=True)
sys.stdin.readline()
"""


def test_core_time_of_all_threads_is_counted_and_the_dead_have_none() -> None:
    """What a process says that it used is what the kernel tells of it; who has ended is nobody's error."""
    command = [sys.executable, "-c", WORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert core_seconds_of(process.pid) >= 0.19
        process.stdin.write("\n")
    assert core_seconds_of(process.pid) == 0.0
