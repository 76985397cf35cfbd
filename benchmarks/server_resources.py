"""What a process holds at a moment, and has used of the cores so far, from Linux's account of it (proc(5))."""

from __future__ import annotations

import os
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


def core_seconds_of(pid: int) -> float:
    """User and system time of all threads of a process (/proc/pid/stat, fields 14 and 15); 0 of one that has ended.

    Counted in hundredths of a second.
    """
    try:
        # The command's name, in parentheses, may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
