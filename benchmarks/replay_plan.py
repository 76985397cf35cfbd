"""Which runs a replay consists of, and in which order. Sends nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.traffic import Mix, Shape, Stretch, gamma_bursts, trace

PHISERVE = "phiserve"
"""The policy that leaves the choice to the server; every other policy is the name of a pinned variant."""

# On a 2-core CPU the fastest of Lite0-2 takes about 7 ms with decode; 25 ms leaves even lite2 a chance when idle.
MIX = Mix(budget_ms_low=25, budget_ms_high=500, photographs=3)

BURSTS, POISSON, NEIGHBOUR, STEP = "gamma bursts", "Poisson", "busy neighbour", "burst and after"
DUEL = "gamma bursts, two in turns"
BURST_CV2 = 4.0
BURST_LOADS = (0.5, 3.0, 0.5)


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured. Loads are shares of measured capacity; durations of one run in seconds."""

    loads: tuple[float, ...]
    rounds: int
    duel_rounds: int
    run_s: float
    short_run_s: float
    neighbour_loads: tuple[float, ...]
    step_s: tuple[float, float, float]
    step_rounds: int
    capacity_s: float


def full_amount() -> Amount:
    """What results are made of: under 21 minutes with three traces."""
    return Amount(
        loads=(0.3, 0.7, 1.0, 1.5, 3.0),
        rounds=2,
        duel_rounds=6,
        run_s=8.0,
        short_run_s=6.0,
        neighbour_loads=(0.3, 0.7, 1.0),
        step_s=(3.0, 2.0, 4.0),
        step_rounds=3,
        capacity_s=6.0,
    )


def quick_amount() -> Amount:
    """About a minute: short rounds, to see that everything works."""
    return Amount(
        loads=(0.7, 3.0),
        rounds=1,
        duel_rounds=1,
        run_s=2.0,
        short_run_s=1.5,
        neighbour_loads=(0.7,),
        step_s=(1.5, 1.0, 2.0),
        step_rounds=1,
        capacity_s=2.0,
    )


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run: `shape` at `loads` (one after the other, `durations_s` each) under `policy`."""

    name: str
    shape: Shape
    policy: str
    loads: tuple[float, ...]
    durations_s: tuple[float, ...]
    seed: int
    neighbour: bool = False

    @property
    def load(self) -> float:
        """The load, where there is one; the highest where it changes."""
        return max(self.loads)

    @property
    def title(self) -> str:
        """For people who wait."""
        return f"{self.name}, load {' → '.join(f'{load:g}' for load in self.loads)}, {self.policy}"

    def stretches(self, capacity_per_s: float) -> list[Stretch]:
        """The scenario in requests a second."""
        return [
            Stretch(load * capacity_per_s, duration_s)
            for load, duration_s in zip(self.loads, self.durations_s, strict=True)
        ]


def plan(amount: Amount, variants: Sequence[str], traces: Sequence[Path]) -> list[Scenario]:
    """Every run but the duels, in order. Policies take turns within a round, in another order in each.

    What the server has learned under a policy that floods it, it forgets in a second or two, in the next one's time: so
    none follows the same one each time.
    """
    policies = (*variants, PHISERVE)
    bursts, poisson = gamma_bursts(BURST_CV2), gamma_bursts(1.0)
    found = list(_in_turns(BURSTS, bursts, policies, amount.loads, amount.rounds, amount.run_s))
    found += _in_turns(POISSON, poisson, policies, (1.0,), amount.rounds, amount.short_run_s)
    for path in traces:
        found += _in_turns(f"trace {path.stem}", trace(path), policies, (1.0,), amount.rounds, amount.short_run_s)
    compared = (variants[0], PHISERVE)
    found += _in_turns(
        NEIGHBOUR, poisson, compared, amount.neighbour_loads, amount.rounds, amount.short_run_s, neighbour=True
    )
    found += [
        Scenario(STEP, poisson, policy, BURST_LOADS, amount.step_s, seed)
        for seed in range(amount.step_rounds)
        for policy in (variants[-1], PHISERVE)
    ]
    return found


def plan_duels(amount: Amount, best_fixed: Mapping[float, str]) -> list[Scenario]:
    """The variant that `best_fixed` names for each load and phiserve, in turns, with requests that neither has had.

    Which variant is best is known from the runs before. Those cannot say by how much as well: they are few, and the
    best of several noisy figures is too high.
    """
    bursts, seeds = gamma_bursts(BURST_CV2), range(amount.rounds, amount.rounds + amount.duel_rounds)
    return [
        Scenario(DUEL, bursts, policy, (load,), (amount.run_s,), seed)
        for seed in seeds
        for load, variant in best_fixed.items()
        for policy in ((variant, PHISERVE) if seed % 2 else (PHISERVE, variant))
    ]


def _in_turns(  # noqa: PLR0917 - one row of the plan, read in this order above
    name: str,
    shape: Shape,
    policies: Sequence[str],
    loads: Sequence[float],
    rounds: int,
    run_s: float,
    *,
    neighbour: bool = False,
) -> Iterator[Scenario]:
    for number in range(rounds):
        for load in loads:
            for policy in policies if number % 2 == 0 else reversed(policies):
                yield Scenario(name, shape, policy, (load,), (run_s,), seed=number, neighbour=neighbour)
