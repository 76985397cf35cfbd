"""What may be chosen from: every (variant, thread width) with its accuracy and its latency on this machine.

The menu is the planner's only view of models. It knows no queue and no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from model_store.latency_profile import LatencyProfile
from model_store.manifest import ModelVariant
from service.core.request import RoutingPolicy
from service.errors import InvalidArgument, UnknownVariant

# A batch is worth its wait only if it saves core time, compared with the same images one by one on one core each: then
# they would go side by side. Every batch size that is planned must cost at least this much less per image than the next
# smaller one. On CPUs, where a batch costs its size times one image give or take what calibration scatters, that leaves
# batch size 1; on GPUs it leaves the sizes where batching still pays.
BATCH_GAIN_MIN = 0.15

# And batching must pay on this machine at all: some choice's image must cost half as much in its best batch, as on any
# GPU. On a 2-core CPU int8 saves 14 to 30 %, and a server that planned for that gave up heads of its queue at full load
# and answered a third fewer requests in time.
BATCHING_PAYS_MIN = 0.5

# Pins come from the menu, but `min_accuracy` is any number: what is kept by policy is bounded.
_POLICIES_MAX = 256


@dataclass(eq=False, slots=True)
class Choice:
    """One variant at one thread width. `accuracy` is its value in top-1 points (percent).

    `scale` is what observed runs say of the profile (see `drift.py`): every prediction is profile times scale.
    `batch_sizes` are those worth planning, rising from 1; its menu sets them, since that takes a comparison.

    What follows from these is kept as plain numbers, since every request asks for it of every choice: `threads`, worker
    cores of a run; `alone_ns`, nanoseconds of a run of one image; `core_ns_per_image`, core nanoseconds that one image
    costs at the most efficient batch size.
    """

    variant: ModelVariant
    accuracy: float
    profile: LatencyProfile
    scale: float = 1.0
    batch_sizes: tuple[int, ...] = (1,)
    threads: int = field(init=False)
    alone_ns: int = field(init=False)
    core_ns_per_image: float = field(init=False)
    _latency_by_size: dict[int, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Derive what is kept."""
        self.threads = self.profile.threads
        self._derive()

    def _derive(self) -> None:
        self._latency_by_size.clear()
        self.alone_ns = self.latency_ns(1)
        size = self.batch_sizes[-1]
        self.core_ns_per_image = self.latency_ns(size) * self.threads / size

    @property
    def batch_gain(self) -> float:
        """Share of one image's latency that the best profiled batch saves; 0 if none saves any."""
        per_image_ns = [point.latency_ns / point.batch_size for point in self.profile.points]
        return 1.0 - min(per_image_ns) / per_image_ns[0]

    def keep_batches_below(self, core_ns_per_image: float) -> None:
        """Plan only batches that beat this core time of one image, and each the next smaller one kept."""
        sizes, per_image = [1], core_ns_per_image
        for point in self.profile.points[1:]:
            cost = point.latency_ns * self.threads / point.batch_size
            if cost <= per_image * (1 - BATCH_GAIN_MIN):
                sizes.append(point.batch_size)
                per_image = cost
        self.batch_sizes = tuple(sizes)
        self._derive()

    def rescale(self, scale: float) -> None:
        """Predict profile times `scale` from now on."""
        if scale != self.scale:
            self.scale = scale
            self._derive()

    def latency_ns(self, batch_size: int) -> int:
        """Predicted nanoseconds of one run of `batch_size` images."""
        found = self._latency_by_size.get(batch_size)
        if found is None:
            found = self._latency_by_size[batch_size] = int(self.profile.latency_ns(batch_size) * self.scale)
        return found

    def batch_size_max(self, budget_ns: int) -> int:
        """Largest batch predicted to finish within `budget_ns`; 0 if not even one image does."""
        return self.profile.batch_size_max(int(budget_ns / self.scale))

    def work_ns(self, count: int) -> int:
        """Core nanoseconds that `count` images take in batches as large as they get."""
        return self.works_ns((count,))[0]

    def works_ns(self, counts: Sequence[int]) -> list[int]:
        """The same for each of `counts`: a plan asks for a whole queue at once."""
        size, threads = self.batch_sizes[-1], self.threads
        if size == 1:
            one_ns = self.alone_ns * threads
            return [count * one_ns for count in counts]
        full_ns, latency_ns = self.latency_ns(size), self.latency_ns
        return [
            (count // size * full_ns + (latency_ns(count % size) if count % size else 0)) * threads for count in counts
        ]


class Menu:
    """All choices, and which of them a request's policy allows.

    `known` are all variants of the store; those missing from `choices` exist but may not be routed to. `unloaded` are
    those of them that memory has no room for now.
    """

    def __init__(self, choices: Iterable[Choice], known: Collection[str] = (), unloaded: Collection[str] = ()) -> None:
        """Order the choices: most accurate first, then fastest."""
        self.choices = tuple(sorted(choices, key=lambda choice: (-choice.accuracy, choice.alone_ns)))
        if not self.choices:
            raise ValueError("a menu needs at least one routable variant")
        if max(choice.batch_gain for choice in self.choices) >= BATCHING_PAYS_MIN:
            for choice in self.choices:
                alone = [c.alone_ns * c.threads for c in self.choices if c.variant.name == choice.variant.name]
                choice.keep_batches_below(min(alone))
        self.batch_size_max = max(choice.batch_sizes[-1] for choice in self.choices)
        """Images of the largest batch of any choice; 1 where batches do not pay."""
        self._known = frozenset(known)
        self.unloaded = frozenset(unloaded)
        self.cheapest = min(self.choices, key=_cost)
        """The choice that costs the least core time per image: what carries the most load."""
        self.usual_share = 1.0
        """What a run usually takes of its prediction, which is a high quantile; 1 while too few were seen to tell."""
        self._cheapest_at: dict[int, Choice] = {}
        self._fastest_by_width: tuple[tuple[int, int], ...] | None = None
        self._allowed: dict[tuple[str | None, float | None], tuple[Choice, ...]] = {}
        self._fastest_ns: dict[tuple[str | None, float | None], int] = {}
        self._fastest_by_width_of: dict[tuple[str | None, float | None], tuple[tuple[int, int], ...]] = {}

    def allowed(self, policy: RoutingPolicy) -> tuple[Choice, ...]:
        """The choices `policy` allows, most accurate first; never empty.

        Raises:
            UnknownVariant: pinned to a variant that is not there or not routable.
            InvalidArgument: no variant is as accurate as `min_accuracy` asks, or the pinned one is not.
        """
        key = (policy.variant, policy.min_accuracy)
        found = self._allowed.get(key)
        if found is None:
            found = self._select(policy)
            if len(self._allowed) < _POLICIES_MAX:
                self._allowed[key] = found
        return found

    def allows(self, policy: RoutingPolicy) -> bool:
        """Whether there is any choice that `policy` allows."""
        try:
            self.allowed(policy)
        except (UnknownVariant, InvalidArgument):
            return False
        return True

    def batch_sizes_by_variant(self) -> dict[str, tuple[int, ...]]:
        """Of each variant all sizes that may be planned, at whatever thread width."""
        sizes: dict[str, set[int]] = {}
        for choice in self.choices:
            sizes.setdefault(choice.variant.name, set()).update(choice.batch_sizes)
        return {name: tuple(sorted(found)) for name, found in sizes.items()}

    def keeps(self, policies: Iterable[RoutingPolicy], before: Menu) -> bool:
        """Whether all that `before` allowed `policies` is kept: something for each, by a run that is no slower.

        By their profiles: what runs say of those has been heard by one of the two alone.
        """
        return all(
            self.allows(policy) and self._profiled_ns(policy) <= before._profiled_ns(policy)
            for policy in policies
            if before.allows(policy)
        )

    def _profiled_ns(self, policy: RoutingPolicy) -> int:
        return min(choice.profile.latency_ns(1) for choice in self.allowed(policy))

    def _select(self, policy: RoutingPolicy) -> tuple[Choice, ...]:
        chosen = self.choices
        if policy.variant is not None:
            chosen = tuple(choice for choice in chosen if choice.variant.name == policy.variant)
            if not chosen:
                raise UnknownVariant(self._why_not(policy.variant))
        if policy.min_accuracy is not None:
            floor = policy.min_accuracy
            accurate = tuple(c for c in chosen if c.variant.top1 is not None and c.variant.top1 >= floor)
            if not accurate:
                best = max((c.variant.top1 for c in chosen if c.variant.top1 is not None), default=None)
                raise InvalidArgument(f"no allowed variant has top-1 of {floor:g} or more; the best has {best}")
            chosen = accurate
        return chosen

    def _why_not(self, name: str) -> str:
        names = ", ".join(sorted({choice.variant.name for choice in self.choices}))
        if name in self.unloaded:
            return f"variant {name!r} does not fit into the memory that this server may take; try one of {names}"
        if name in self._known:
            return f"variant {name!r} is untrained, which this server was not told to serve; try one of {names}"
        return f"no variant {name!r}; try one of {names}"

    def rescale(self, scales: Sequence[float], usual_share: float = 1.0) -> None:
        """Multiply the profile of each choice, in the order of `choices`, with what was observed of it."""
        self.usual_share = usual_share
        for choice, scale in zip(self.choices, scales, strict=True):
            choice.rescale(scale)
        self.cheapest = min(self.choices, key=_cost)
        self._fastest_by_width = None
        self._cheapest_at.clear()
        self._fastest_ns.clear()
        self._fastest_by_width_of.clear()

    def fastest_ns(self, policy: RoutingPolicy) -> int:
        """Nanoseconds of the fastest single-image run that `policy` allows."""
        key = (policy.variant, policy.min_accuracy)
        found = self._fastest_ns.get(key)
        if found is None:
            found = min(choice.alone_ns for choice in self.allowed(policy))
            if len(self._fastest_ns) < _POLICIES_MAX:
                self._fastest_ns[key] = found
        return found

    @property
    def fastest_by_width(self) -> tuple[tuple[int, int], ...]:
        """Per thread width, narrow to wide: (threads, nanoseconds of its fastest single-image run)."""
        if self._fastest_by_width is None:
            self._fastest_by_width = _fastest_by_width(self.choices)
        return self._fastest_by_width

    def fastest_by_width_for(self, policy: RoutingPolicy) -> tuple[tuple[int, int], ...]:
        """The same of what `policy` allows; empty if it allows nothing."""
        if policy.variant is None and policy.min_accuracy is None:
            return self.fastest_by_width
        key = (policy.variant, policy.min_accuracy)
        found = self._fastest_by_width_of.get(key)
        if found is None:
            found = _fastest_by_width(self.allowed(policy)) if self.allows(policy) else ()
            if len(self._fastest_by_width_of) < _POLICIES_MAX:
                self._fastest_by_width_of[key] = found
        return found

    def cheapest_at(self, threads: int) -> Choice:
        """The cheapest of one thread width, which must be on the menu."""
        found = self._cheapest_at.get(threads)
        if found is None:
            found = min((choice for choice in self.choices if choice.threads == threads), key=_cost)
            self._cheapest_at[threads] = found
        return found

    def best_within(self, budget_ns: int, policy: RoutingPolicy) -> Choice | None:
        """The most accurate choice whose single-image run fits `budget_ns` (MaxAcc); None if none does."""
        for choice in self.allowed(policy):
            if choice.alone_ns <= budget_ns:
                return choice
        return None


def _cost(choice: Choice) -> tuple[float, float]:
    """Core time per image; among equals the more accurate comes first."""
    return choice.core_ns_per_image, -choice.accuracy


def _fastest_by_width(choices: Iterable[Choice]) -> tuple[tuple[int, int], ...]:
    fastest: dict[int, int] = {}
    for choice in choices:
        latency_ns = choice.alone_ns
        fastest[choice.threads] = min(latency_ns, fastest.get(choice.threads, latency_ns))
    return tuple(sorted(fastest.items()))
