"""What holds for every test: no time is asserted, and which stay together when `make test` runs several processes.

Tests of one file share what it builds, so a file is never cut in two. The end-to-end tests share a store and a server
that has measured the machine, so one process runs them all, in their order; the family has a store of its own.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

TOGETHER = "tests/end_to_end/"
APART = TOGETHER + "test_family.py"

# Its defaults fail an example that takes 200 ms and a test whose first examples take a second to make, as any do while
# the machine is busy with something else.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

gc.disable()  # while tests are read, which leaves next to no garbage


def group_of(nodeid: str) -> str:
    """The tests that one process runs in a row."""
    file = nodeid.partition("::")[0]
    return TOGETHER if file.startswith(TOGETHER) and file != APART else file


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[pytest.CollectReport]:
    """Every second process reads the files from the last to the first, unless there is but one.

    Compiling them is half of the reading, and where two processes meet each has compiled its half for the other.
    """
    report = yield
    worker = getattr(collector.config, "workerinput", {"workerid": "gw0"})["workerid"]
    if isinstance(collector, pytest.Session | pytest.Directory) and int(worker.removeprefix("gw")) % 2:
        report.result.reverse()
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The same order in each of several processes, the longest groups first: begun last, they would be waited for."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: (not item.nodeid.startswith(TOGETHER), item.path.parts))


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: to look through them for garbage again and again is a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out whole groups, in order."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - only where several processes were asked for

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return Groups(config, log)
