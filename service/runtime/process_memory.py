"""What this process holds of the machine's memory, by the kernel's account (proc(5)), and giving back what it can.

Linux only; elsewhere `resident_bytes` is None and nothing is given back.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_FIELD = re.compile(r"^(VmRSS|VmHWM):\s+(\d+)", re.MULTILINE)


def resident_bytes() -> int | None:
    """Physical memory that this process holds, files mapped among it; None where no kernel tells."""
    return _fields().get("VmRSS")


def resident_bytes_max() -> int:
    """The most that was resident since the start, or since `forget_maximum`."""
    return _fields().get("VmHWM", 0)


def forget_maximum() -> None:
    """`resident_bytes_max` is of what follows."""
    _CLEAR.write_text("5")


def give_back() -> None:
    """Hand the C library's free pages to the kernel; where that is another library than glibc, do nothing.

    Without it nothing that was freed is seen to be: the library keeps what sessions held (measured: 144 MiB of the 176
    that five variants took). Sessions are in no cycle, so the interpreter's collector, which would hold its lock for a
    tenth of a second, has nothing to do.
    """
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return lambda _kept: None


def _fields() -> dict[str, int]:
    try:
        return {name: 1024 * int(kib) for name, kib in _FIELD.findall(_STATUS.read_text())}
    except OSError:
        return {}
