"""A store under a limit on memory, with real sessions: what fits is loaded, what is unloaded gives its memory back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model_store.builder import BuildRequest, build_store
from model_store.sources import from_untrained
from service.core.clock import MonotonicClock
from service.limited_loading import MIB, LimitedLoader
from service.runtime import footprints, process_memory
from service.runtime.providers import Provider
from service.settings import Settings
from service.store_loading import Machine, UnservableError
from tests.fakes.footprints import measured_footprints

AMPLE_MIB = 100_000
MACHINE = Machine(Provider.CPU, workers=2, thread_widths=(1, 2), batch_sizes=(1,))


@pytest.fixture(scope="module")
def built(rough_figures, tmp_path_factory) -> Path:
    """Two networks of different size, and what they take of memory, measured once for all tests."""
    root = tmp_path_factory.mktemp("limited") / "store"
    build_store(root, [BuildRequest(name, from_untrained(name, 0)) for name in ("lite0", "lite2")])
    loader(root, AMPLE_MIB).load(lambda *_: None).loaded.close()
    return root


def loader(root: Path, limit_mib: int, machine: Machine = MACHINE) -> LimitedLoader:
    settings = Settings(store=root, workers=2, allow_untrained=True, memory_limit_mib=limit_mib)
    return LimitedLoader(settings, machine, MonotonicClock())


def test_all_are_loaded_where_there_is_room(built, monkeypatch) -> None:
    """Then every variant is on the menu, and nothing is measured that was measured before."""
    monkeypatch.setattr(footprints.subprocess, "run", None)
    stages: list[str] = []
    found = loader(built, AMPLE_MIB).load(lambda stage, _done, _total: stages.append(stage))
    found.loaded.close()
    assert found.residency.loaded == {"lite0", "lite2"}
    assert {row.variant.name for row in found.loaded.generation.statuses() if row.loaded} == {"lite0", "lite2"}
    assert set(stages) == {"loading"}


def test_what_is_measured_holds_weights_and_more_while_it_is_loaded(built) -> None:
    """A variant holds its weights at each of two widths, and no more than twice as much again is passed through."""
    found = loader(built, AMPLE_MIB).load(lambda *_: None)
    found.loaded.close()
    for name, held in found.residency.resident_bytes_by_variant().items():
        entry = found.loaded.entries[name]
        weights = 4 * entry.manifest.parameters
        assert 2 * weights < held < 10 * weights


def test_unloading_gives_memory_back_and_loading_takes_it(built) -> None:
    """What is resident falls by most of what was measured, and rises by it again; the rest serves meanwhile."""
    found = loader(built, AMPLE_MIB).load(lambda *_: None)
    try:
        size = found.residency.resident_bytes_by_variant()["lite2"]
        full = process_memory.resident_bytes()
        found.sessions.close(["lite2"])
        less = process_memory.resident_bytes()
        assert {name for name, _ in found.loaded.workers.sessions} == {"lite0"}
        assert full - less > 0.6 * size
        found.sessions.open("lite2", (1,))
        assert process_memory.resident_bytes() - less > 0.6 * size
        assert {name for name, _ in found.loaded.workers.sessions} == {"lite0", "lite2"}
    finally:
        found.loaded.close()


def test_one_that_does_not_fit_is_not_loaded(built) -> None:
    """Under a limit between the two, the smaller one serves and the menu says that the other is not loaded."""
    with pytest.raises(UnservableError, match="the smallest limit that works here is") as refused:
        loader(built, 1).load(lambda *_: None)
    least = int(str(refused.value).rsplit(" ", 1)[-1])
    # Some more than that, since what else this process holds differs from one start to the next.
    limit_mib = least + measured_footprints(built)["lite2"].resident_bytes // 2 // MIB
    found = loader(built, limit_mib).load(lambda *_: None)
    found.loaded.close()
    assert found.residency.loaded == {"lite0"}
    assert {row.variant.name: row.loaded for row in found.loaded.generation.statuses()} == {
        "lite0": True,
        "lite2": False,
    }
    assert found.residency.room_bytes <= limit_mib * MIB


def test_a_new_version_of_the_store_needs_a_restart(built, tmp_path) -> None:
    """Two versions do not fit beside each other: the reload is refused with what to do; an unchanged one is not."""
    root = shutil.copytree(built, tmp_path / "store")
    limited = loader(root, AMPLE_MIB)
    found = limited.load(lambda *_: None)
    found.loaded.close()
    assert limited.load_beside(found.loaded, lambda *_: None) is None
    build_store(root, [BuildRequest("lite0", from_untrained("lite0", 1))])
    with pytest.raises(UnservableError, match="restart the server"):
        limited.load_beside(found.loaded, lambda *_: None)


def test_a_gpu_is_refused(built) -> None:
    """What counts there is the memory of the device, which is not counted."""
    with pytest.raises(UnservableError, match="keeps variants in that of its device"):
        loader(built, AMPLE_MIB, Machine(Provider.CUDA, 1, (1,), (1,))).load(lambda *_: None)
