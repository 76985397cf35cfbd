"""What a machine is called, from the kernel's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.runtime.machine import available_cores, lacks_vnni, machine_name


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def test_the_name_holds_processor_cores_and_graphics_card(tmp_path, eight_cores):
    """All that changes a latency profile is in the name."""
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\nprocessor\t: 1\n")
    write(tmp_path, "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA H100\nIRQ: 5\n")
    assert machine_name(tmp_path) == "Fast CPU @ 3 GHz, 8 cores, NVIDIA H100"


def test_without_the_kernels_files_there_is_still_a_name(tmp_path, monkeypatch):
    """Where nothing can be read the platform's own word for the machine is used, and one core is singular."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert machine_name(tmp_path).endswith(", 1 core")


def test_affinity_bounds_the_cores(tmp_path, eight_cores):
    """With no quota, the cores this process is bound to count."""
    assert available_cores(tmp_path) == 8


@pytest.mark.parametrize(("quota", "cores"), [
    ("max 100000", 8), ("200000 100000", 2), ("250000 100000", 3), ("50000 100000", 1), ("9000000 100000", 8),
    ("", 8), ("rubbish", 8), ("1 0", 8),
])  # fmt: skip
def test_a_control_groups_quota_bounds_the_cores(quota, cores, tmp_path, eight_cores):
    """A container's CPU limit counts, rounded up, and never raises the number; what cannot be read is ignored."""
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", quota)
    assert available_cores(tmp_path) == cores


def test_the_tightest_group_above_counts(tmp_path, eight_cores):
    """A limit on an outer group bounds the groups within it."""
    write(tmp_path, "proc/self/cgroup", "0::/pods/one\n")
    write(tmp_path, "sys/fs/cgroup/pods/cpu.max", "300000 100000")
    write(tmp_path, "sys/fs/cgroup/pods/one/cpu.max", "600000 100000")
    assert available_cores(tmp_path) == 3


@pytest.mark.parametrize(("quota", "cores"), [("150000", 2), ("-1", 8)])
def test_the_older_control_groups_are_read_too(quota, cores, tmp_path, eight_cores):
    """Version 1 keeps quota and period in two files, and -1 for no limit."""
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota)
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert available_cores(tmp_path) == cores


@pytest.mark.parametrize(("cpuinfo", "lacks"), [
    ("flags\t\t: fpu sse2 avx2 avx512f\n", True),
    ("flags\t\t: fpu avx2 avx512f avx512_vnni\n", False),
    ("flags\t\t: fpu avx2 avx_vnni\n", False),
    ("Features\t: fp asimd asimddp\n", False),
    ("", False),
])  # fmt: skip
def test_only_x86_without_vnni_lacks_it(cpuinfo, lacks, tmp_path):
    """A processor lacks VNNI if it is an x86 that lists flags and neither form among them; what is unknown does not."""
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\n" + cpuinfo)
    assert lacks_vnni(tmp_path) is lacks
