"""Which cores the threads of a run are held to, and that nothing stays held."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.runtime.cores import cores_of_run, held_to
from service.runtime.providers import SessionOptions
from service.runtime.session import Session
from tests.fakes.colour_models import colour_graph, variant_of

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs calls of Linux")


@pytest.fixture
def usable() -> Iterator[tuple[int, ...]]:
    """The cores this process may use; whatever a test does, this thread has them again afterwards."""
    before = os.sched_getaffinity(0)
    yield tuple(sorted(before))
    os.sched_setaffinity(0, before)


def test_a_run_on_all_cores_has_one_a_thread(usable: tuple[int, ...]) -> None:
    """As many threads as cores: each has one. A run that leaves a core free, or has one thread, goes anywhere."""
    assert cores_of_run(len(usable)) == (usable if len(usable) > 1 else ())
    assert cores_of_run(len(usable) + 1) == ()
    assert cores_of_run(1) == ()


def test_the_caller_is_held_to_the_first_core_and_let_go(usable: tuple[int, ...]) -> None:
    """Meanwhile only; and what it might use before, it may use again, errors or not."""
    with held_to(usable):
        assert os.sched_getaffinity(0) == {usable[0]}
    assert os.sched_getaffinity(0) == set(usable)
    with pytest.raises(ZeroDivisionError), held_to(usable):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == set(usable)


def test_without_cores_nothing_is_held(usable: tuple[int, ...]) -> None:
    """A run that leaves a core free runs where the kernel likes."""
    with held_to(()):
        assert os.sched_getaffinity(0) == set(usable)


def test_a_core_that_is_not_there_is_not_insisted_on(usable: tuple[int, ...]) -> None:
    """A core taken from this process since it started costs the holding and not the run."""
    with held_to((1023, *usable)):
        assert os.sched_getaffinity(0) == set(usable)


def test_threads_of_a_session_are_apart_and_its_caller_is_free_again(usable: tuple[int, ...]) -> None:
    """The runtime's threads are on all cores but the first, each on one; after a run the caller may go anywhere."""
    if len(usable) == 1:
        pytest.skip("needs two cores")
    before = _affinities()
    session = Session(colour_graph(), variant_of(), SessionOptions(len(usable), 1))
    expected = sorted((core,) for core in usable[1:])
    for _ in range(10_000):  # each thread holds itself, as soon as it has begun
        assert session.run(np.zeros((1, 16, 16, 3), np.uint8)).shape == (1, variant_of().class_count)
        started = sorted(cores for thread, cores in _affinities().items() if thread not in before)
        if started == expected:
            break
    assert started == expected
    assert os.sched_getaffinity(0) == set(usable)


def _affinities() -> dict[int, tuple[int, ...]]:
    """The cores of each thread of this process."""
    found = {}
    for path in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            found[int(path.name)] = tuple(sorted(os.sched_getaffinity(int(path.name))))
    return found
