"""What this process runs on, in words: processor, cores it may use, graphics card. Profiles are kept per machine.

Reads the kernel's files only; runs no command.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine_name(root: Path = Path("/")) -> str:
    """Such as "Intel(R) Xeon(R) Processor, 2 cores" or "AMD EPYC 9654, 16 cores, NVIDIA H100 80GB HBM3"."""
    cores = available_cores(root)
    parts = [_processor(root), f"{cores} core{'s' if cores != 1 else ''}", *_graphics_cards(root)]
    return ", ".join(parts)


def available_cores(root: Path = Path("/")) -> int:
    """Cores this process may use: its CPU affinity, cut to a control group's quota (rounded up), at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_v2_quota(root) or _cgroup_v1_quota(root)
    return affinity if quota is None else max(1, min(affinity, quota))


def lacks_vnni(root: Path = Path("/")) -> bool:
    """Whether this is an x86 processor, by the kernel's word, without the instructions that multiply 8 bits into 32."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":  # other processors list "Features"
            return not {"avx512_vnni", "avx_vnni"} & set(value.split())
    return False


def _processor(root: Path) -> str:
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _graphics_cards(root: Path) -> list[str]:
    cards: list[str] = []
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        cards.extend(line.partition(":")[2].strip() for line in _read(path).splitlines() if line.startswith("Model:"))
    return cards


def _cgroup_v2_quota(root: Path) -> int | None:
    """The tightest "quota period" of this process's group and the groups above it, in whole cores."""
    group = next((line[3:] for line in _read(root / "proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    quotas = []
    folder = Path(group.strip("/"))
    for level in (folder, *folder.parents):
        words = _read(root / "sys/fs/cgroup" / level / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            quotas.append(-(-int(words[0]) // int(words[1])))
    return min(quotas, default=None)


def _cgroup_v1_quota(root: Path) -> int | None:
    quota = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip()
    period = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
    if quota.isdigit() and period.isdigit() and int(period):  # an unlimited group has -1
        return -(-int(quota) // int(period))
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
