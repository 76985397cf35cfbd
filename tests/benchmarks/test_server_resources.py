"""What a process holds is read from the kernel: files and threads exactly, memory as it grows."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from benchmarks.server_resources import resources_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_an_open_file_a_thread_and_memory_are_seen(tmp_path) -> None:
    """One more of each is one more, and memory that was written to is resident until it is given back."""
    before = resources_of(os.getpid())
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    with (tmp_path / "file").open("w"):
        held = bytearray(os.urandom(1)) * (64 * 1024**2)
        during = resources_of(os.getpid())
    ended.set()
    thread.join()
    assert during.open_files == before.open_files + 1
    assert during.threads == before.threads + 1
    assert during.resident_bytes - before.resident_bytes > 60 * 1024**2
    assert during.anonymous_bytes <= during.resident_bytes <= during.resident_bytes_max
    del held
    after = resources_of(os.getpid())
    assert after.open_files == before.open_files
    assert after.resident_bytes < during.resident_bytes


def test_a_process_that_ended_is_an_error() -> None:
    """Nobody is told that a server that is gone holds nothing."""
    with pytest.raises(OSError, match="proc"):
        resources_of(2**22 + 1)
