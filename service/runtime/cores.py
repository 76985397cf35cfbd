"""Keeps the threads of a run that is as wide as the machine on a core each.

After a pause the kernel wakes the caller and the runtime's own thread on one core and leaves both there for the
length of a run: on two cores lite2 took 33 ms instead of 18 whenever 0.3 s had passed since the run before, as long
as with one thread. Runs that leave a core free are not held: the kernel has somewhere to move them.

Does nothing where the system has no such call or refuses it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager


def cores_of_run(threads: int) -> tuple[int, ...]:
    """A core for each thread of a run that takes all cores this process may use; none if it leaves one free.

    To be asked on a thread that is not held to a core.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    usable = tuple(sorted(os.sched_getaffinity(0)))
    return usable if threads == len(usable) > 1 else ()


_NOWHERE: AbstractContextManager[None] = contextlib.nullcontext()


def held_to(cores: tuple[int, ...]) -> AbstractContextManager[None]:
    """Hold the calling thread to the first of `cores` meanwhile; without cores it goes where it likes."""
    # Most runs leave a core free: for them a generator that does nothing would be made, begun and ended.
    return _holding(cores) if cores else _NOWHERE


@contextlib.contextmanager
def _holding(cores: tuple[int, ...]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores[:1])
    except OSError:  # taken from this process since it started
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, before)
