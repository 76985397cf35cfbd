"""What a server process holds at a moment: memory, open files and threads, from Linux's account of it (proc(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FIELD = re.compile(r"^(RssAnon|VmRSS|VmHWM|Threads):\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Resources:
    """Resident memory in bytes, of it what is not files mapped, the most it ever was; open files; threads."""

    resident_bytes: int
    anonymous_bytes: int
    resident_bytes_max: int
    open_files: int
    threads: int


def resources_of(pid: int) -> Resources:
    """Of a process that runs.

    Raises:
        OSError: there is no such process, or no Linux.
    """
    fields = {name: int(value) for name, value in _FIELD.findall(Path(f"/proc/{pid}/status").read_text())}
    return Resources(
        resident_bytes=1024 * fields["VmRSS"],
        anonymous_bytes=1024 * fields["RssAnon"],
        resident_bytes_max=1024 * fields["VmHWM"],
        open_files=sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        threads=fields["Threads"],
    )
