"""Turns: nobody has a better place than others, and nothing of one turn reaches into the next."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from benchmarks.turns import NeverIdle, Side, order, take_round, wait_until_idle


@pytest.mark.parametrize("sides", [("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d")])
def test_every_place_and_every_order_of_two_is_taken_equally_often(sides):
    """Over twice as many rounds as sides; a side that always followed the same other would inherit its warm cores."""
    rounds = [order(sides, number) for number in range(2 * len(sides))]
    assert set(Counter((side, at) for turned in rounds for at, side in enumerate(turned)).values()) == {2}
    before = Counter(pair for turned in rounds for pair in itertools.combinations(turned, 2))
    assert all(before[one, other] == before[other, one] for one, other in itertools.combinations(sides, 2))


def test_of_three_each_directly_follows_each_other_one_as_often():
    """What a turn leaves behind, a warm core or a full cache, falls on all alike."""
    rounds = [order("abc", number) for number in range(6)]
    follows = Counter(pair for turned in rounds for pair in itertools.pairwise(turned))
    assert set(follows.values()) == {2}


def test_a_round_has_one_turn_of_each_in_its_order():
    """Figures are by name, however the round was ordered, and sides without processes use no cores."""
    taken = []

    def side(name):
        return Side(name, lambda: taken.append(name) or len(taken), frozenset())

    sides = [side("a"), side("b"), side("c")]
    found = take_round(sides, 1)
    assert taken == ["c", "b", "a"]
    assert {name: turn.figures for name, turn in found.items()} == {"c": 1, "b": 2, "a": 3}
    assert {turn.others_cores for turn in found.values()} == {0.0}


def test_cores_that_others_use_are_told(monkeypatch):
    """Of each turn what all other processes used; those of the side at hand are no others, under whichever name."""
    used_s = {1: 0.0, 2: 0.0}
    now_s = iter(range(100))
    monkeypatch.setattr("benchmarks.turns.core_seconds_of", used_s.__getitem__)
    monkeypatch.setattr("benchmarks.turns.time.perf_counter", lambda: float(next(now_s)))

    def load():
        used_s[1] += 1.5
        used_s[2] += 0.25

    sides = [Side("HTTP", load, frozenset([1])), Side("gRPC", load, frozenset([1])), Side("bare", load, frozenset([2]))]
    found = take_round(sides, 0)
    assert {name: turn.others_cores for name, turn in found.items()} == {"HTTP": 0.25, "gRPC": 0.25, "bare": 1.5}


def test_the_next_turn_waits_for_work_that_is_left():
    """A closed client leaves requests behind; the wait is over at the first look in which next to nothing was used."""
    readings = iter([5.0, 5.1, 5.17, 5.18, 9.0])
    looks = []
    wait_until_idle("server", lambda: next(readings), looks.append)
    assert len(looks) == 3


def test_a_side_that_never_rests_is_not_compared():
    """Whatever came next would be measured beside it."""
    readings = itertools.count(step=0.1)
    with pytest.raises(NeverIdle, match="server still works 10 s after"):
        wait_until_idle("server", lambda: next(readings), lambda _: None)
