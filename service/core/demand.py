"""What was asked for lately, kept so that it can be reckoned what other variants would have been worth for it.

A bounded number of wishes stands for all requests of the last minute, each for as many as came since the one before.
Reads no clock and decides nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from service.core.menu import Choice
from service.core.request import DEFAULT_POLICY, RoutingPolicy

WINDOW_NS = 60_000_000_000
"""How far back requests count: long beside a load, short beside a change of what callers do."""

_WISHES_MAX = 128
_GOLDEN = 0.6180339887498949

# How a wish of nobody weighs beside one of a caller: enough to choose by where nobody asked for anything.
_PRIOR_WEIGHT = 1e-3
_PRIOR_WISHES = 24


@dataclass(frozen=True, slots=True)
class Wish:
    """A request: nanoseconds that it had left for its run, its policy, and what a core-nanosecond was worth then.

    `weight`: how many requests it stands for.
    """

    at_ns: int
    slack_ns: int
    policy: RoutingPolicy
    price: float
    weight: float


class Demand:
    """The wishes of the last `WINDOW_NS`."""

    def __init__(self) -> None:
        """Nobody has asked for anything."""
        self._wishes: deque[Wish] = deque(maxlen=_WISHES_MAX)
        self._skipped = 0
        self._next_ns = 0
        self._kept = 0

    def skips(self, now_ns: int) -> bool:
        """Whether the request of `now_ns` is only counted, for the next one that is kept to stand for."""
        if now_ns >= self._next_ns:
            return False
        self._skipped += 1
        return True

    def note(self, slack_ns: int, policy: RoutingPolicy, price: float, now_ns: int) -> Wish:
        """Keep a request which is not skipped."""
        wish = Wish(now_ns, slack_ns, policy, price, 1.0 + self._skipped)
        self._wishes.append(wish)
        self._skipped = 0
        self._kept += 1
        # Uneven steps, so that no rhythm of the callers hides some of them.
        step = 0.5 + (self._kept * _GOLDEN) % 1.0
        self._next_ns = now_ns + int(WINDOW_NS / _WISHES_MAX * step)
        return wish

    def wishes(self, now_ns: int) -> tuple[Wish, ...]:
        """Those that are not too old, the oldest first."""
        while self._wishes and now_ns - self._wishes[0].at_ns > WINDOW_NS:
            self._wishes.popleft()
        return tuple(self._wishes)


def prior(choices: Collection[Choice], budget_ns_default: int) -> tuple[Wish, ...]:
    """What callers are taken to ask for before any did: budgets from the fastest run to the default, by even ratios."""
    low_ns = min(choice.alone_ns for choice in choices)
    ratio = max(1.0, budget_ns_default / low_ns)
    steps = _PRIOR_WISHES - 1
    return tuple(
        Wish(0, int(low_ns * ratio ** (step / steps)) + 1, DEFAULT_POLICY, 0.0, _PRIOR_WEIGHT)
        for step in range(_PRIOR_WISHES)
    )


class Worth:
    """What sets of variants are worth for given wishes, in top-1 points over all of them."""

    def __init__(self, choices: Sequence[Choice], wishes: Iterable[Wish], ratio: float = 1.0) -> None:
        """Runs are taken to last `ratio` times what the choices say: how slow the machine is now."""
        self._rows = [(wish.weight, _worth_by_variant(choices, wish, ratio)) for wish in wishes]

    def of(self, variants: Collection[str]) -> float:
        """Each wish is served by the one of `variants` that is worth most for it, or not at all."""
        total = 0.0
        for weight, worth in self._rows:
            total += weight * max((worth[name] for name in variants if name in worth), default=0.0)
        return total


def best_for(choices: Sequence[Choice], wish: Wish, ratio: float = 1.0) -> str | None:
    """The variant that is worth most for `wish`; None where none is in time."""
    worth = _worth_by_variant(choices, wish, ratio)
    return max(worth, key=worth.__getitem__) if worth else None


def _worth_by_variant(choices: Sequence[Choice], wish: Wish, ratio: float) -> Mapping[str, float]:
    """Of each variant that is allowed and in time: its accuracy less what its core time would have earned."""
    found: dict[str, float] = {}
    policy = wish.policy
    for choice in choices:
        variant = choice.variant
        if choice.alone_ns * ratio > wish.slack_ns or policy.variant not in {None, variant.name}:
            continue
        if policy.min_accuracy is not None and (variant.top1 is None or variant.top1 < policy.min_accuracy):
            continue
        worth = max(0.0, choice.accuracy - wish.price * choice.core_ns_per_image)
        found[variant.name] = max(worth, found.get(variant.name, 0.0))
    return found
