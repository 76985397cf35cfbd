"""Sides that are all up take short turns under load: who is next, and that nobody works in another's turn.

Where a machine's speed changes within minutes, two figures can be compared only if they were taken within seconds of
each other. Knows no server and no figure: a side is a name, a way to load it and the processes that then work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from benchmarks.server_resources import core_seconds_of

IDLE_CORES = 0.15
"""Below this share of a core a side counts as idle; one that still works on a request has a whole core or more."""

_LOOK_S = 0.1
_LOOKS_MAX = 100

T = TypeVar("T")
Figures = TypeVar("Figures")


class NeverIdle(Exception):
    """A side still worked long after its turn: what comes next would be measured beside it."""


@dataclass(frozen=True, slots=True)
class Side(Generic[Figures]):
    """One of those that are compared; `pids` are all processes that work when it is loaded, but for the client's."""

    name: str
    load: Callable[[], Figures]
    pids: frozenset[int]

    def core_s(self) -> float:
        """Core seconds its processes have used so far."""
        return sum(map(core_seconds_of, self.pids))


@dataclass(frozen=True, slots=True)
class Turn(Generic[Figures]):
    """What one side's turn gave, and how many cores all other sides' processes used meanwhile."""

    figures: Figures
    others_cores: float


def order(sides: Sequence[T], number: int) -> list[T]:
    """In which order `sides` have their turns in round `number`, from 0.

    Over twice as many rounds as there are sides, each is as often first, second … as any other, and has each other one
    as often before as after it: every second round is the one before it backwards.
    """
    first = number // 2 % len(sides)
    turned = [*sides[first:], *sides[:first]]
    return turned[::-1] if number % 2 else turned


def take_round(sides: Sequence[Side[Figures]], number: int) -> Mapping[str, Turn[Figures]]:
    """One turn of each in the order of that round, by name; the next begins when nothing of the last is under way.

    Raises:
        NeverIdle: see the class.
    """
    found = {}
    everyone = frozenset[int]().union(*(side.pids for side in sides))
    for side in order(sides, number):
        others = Side("others", side.load, everyone - side.pids)
        before_s, started_s = others.core_s(), time.perf_counter()
        figures = side.load()
        found[side.name] = Turn(figures, (others.core_s() - before_s) / (time.perf_counter() - started_s))
        wait_until_idle(side.name, side.core_s)
    return found


def wait_until_idle(name: str, core_s: Callable[[], float], sleep: Callable[[float], None] = time.sleep) -> None:
    """Return once `core_s` all but stands still: a client that ends leaves its last requests to the server.

    Raises:
        NeverIdle: it did not within ten seconds.
    """
    used_s = core_s()
    for _ in range(_LOOKS_MAX):
        sleep(_LOOK_S)
        before_s, used_s = used_s, core_s()
        if used_s - before_s < IDLE_CORES * _LOOK_S:
            return
    raise NeverIdle(f"{name} still works {_LOOKS_MAX * _LOOK_S:g} s after the end of its turn")
