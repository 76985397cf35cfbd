"""The plan of a replay: turns, equal requests for all, and a bound on its length."""

from __future__ import annotations

import pytest

from benchmarks.replay_plan import BURSTS, MIX, NEIGHBOUR, PHISERVE, STEP, full_amount, plan, plan_duels, quick_amount
from benchmarks.traffic import schedule

VARIANTS = ("lite0", "lite1", "lite2")


@pytest.fixture
def traces(tmp_path):
    path = tmp_path / "steady.csv"
    path.write_text("".join(f"{at},1,300\n" for at in range(5000)))
    return [path]


def test_every_policy_gets_the_same_requests(traces):
    """In each round and at each load, what is offered does not depend on who answers."""
    found = plan(full_amount(), VARIANTS, traces)
    offered = {}
    for scenario in found:
        key = (scenario.name, scenario.loads, scenario.seed)
        offered.setdefault(key, {})[scenario.policy] = schedule(
            scenario.shape, scenario.stretches(80.0), MIX, scenario.seed
        )
    assert {len(by_policy) for by_policy in offered.values()} == {2, 4}
    for by_policy in offered.values():
        first, *others = by_policy.values()
        assert all(other == first for other in others)


def test_policies_take_turns_and_none_follows_the_same_one_each_time():
    """Whatever changes on the machine over time falls on all policies alike, and what a flood leaves behind as well."""
    bursts = [scenario.policy for scenario in plan(full_amount(), VARIANTS, []) if scenario.name == BURSTS]
    assert bursts[:4] == ["lite0", "lite1", "lite2", PHISERVE]
    assert bursts[20:24] == [PHISERVE, "lite2", "lite1", "lite0"]


def test_every_load_is_measured_at_least_twice():
    """A spread needs two rounds or more."""
    found = [s for s in plan(full_amount(), VARIANTS, []) if s.name == BURSTS and s.policy == PHISERVE]
    assert sorted(s.load for s in found) == [0.3, 0.3, 0.7, 0.7, 1.0, 1.0, 1.5, 1.5, 3.0, 3.0]


@pytest.mark.parametrize(("amount", "seconds_max"), [(full_amount(), 21 * 60), (quick_amount(), 75)])
def test_a_replay_is_bounded_in_time(amount, seconds_max, traces):
    """Offered time and pauses, with three traces for the full one, leave room for the start within the bound."""
    given = traces * 3 if amount == full_amount() else []
    scenarios = plan(amount, VARIANTS, given) + plan_duels(amount, dict.fromkeys(amount.loads, VARIANTS[0]))
    seconds = sum(sum(scenario.durations_s) + 0.3 for scenario in scenarios) + 2 * (1 + amount.capacity_s)
    assert seconds + 20 <= seconds_max


def test_the_burst_is_in_the_middle():
    """The load rises to its highest and falls back to what it was."""
    step = next(scenario for scenario in plan(full_amount(), VARIANTS, []) if scenario.name == STEP)
    assert step.loads == (0.5, 3.0, 0.5)
    assert [stretch.rate_per_s for stretch in step.stretches(100.0)] == [50.0, 300.0, 50.0]


def test_only_one_scenario_has_a_neighbour():
    """The core is burnt where that is what is measured, and nowhere else."""
    assert {scenario.name for scenario in plan(full_amount(), VARIANTS, []) if scenario.neighbour} == {NEIGHBOUR}


def test_duels_take_turns_on_requests_that_were_not_chosen_by():
    """Both get the same requests in each round, each goes first as often, and no seed is one the best was found on."""
    amount = full_amount()
    found = plan_duels(amount, {0.3: "lite1", 3.0: "lite0"})
    chosen_by = {s.seed for s in plan(amount, VARIANTS, []) if s.name == BURSTS}
    assert not chosen_by & {s.seed for s in found}
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert {first.policy, second.policy} == {PHISERVE, {0.3: "lite1", 3.0: "lite0"}[first.load]}
        offered = [schedule(s.shape, s.stretches(80.0), MIX, s.seed) for s in (first, second)]
        assert offered[0] == offered[1]
    assert sum(s.policy == PHISERVE for s in found[::2]) == len(found) / 4
