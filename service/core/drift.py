"""How far reality is from a profile right now: a sliding high quantile of observed / predicted.

A profile is measured once; then another process takes a core, or the machine was disturbed while it was measured.
`Drift` is one ratio that follows within a few observations; `LatencyModel` keeps one for the machine and a slow
comparison for each choice of a menu. Predicting with the worst of recent runs is Clockwork's rule (OSDI'20); here a
quantile, since one outlier on a shared machine must not price everything out for long. Reads no clock.
"""

from __future__ import annotations

import bisect
import math
from collections import deque

from service.core.menu import Menu

NS_PER_S = 1_000_000_000

QUANTILE = 0.9
RECENT_NS = 3 * NS_PER_S
"""Observations older than this say nothing about now."""

RELAX_NS = 1 * NS_PER_S
"""Half-life of a ratio above one that is no longer confirmed: distrust fades, so that nothing is ruled out for good.
Short, since where every budget is short one slow second has all refused, and nothing runs that could show it is over.
A ratio below one stays: the profile was pessimistic, and that is learned."""

ENOUGH = 3
_WINDOW = 16
RATIO_MIN, RATIO_MAX = 0.05, 20.0
RELATIVE_MAX = 2.0
RELATIVE_WEIGHT = 1 / 16


class Drift:
    """One ratio of observed to predicted."""

    def __init__(self, window: int = _WINDOW) -> None:
        """Nothing observed: the prediction holds."""
        self._window = window
        self._observed: deque[tuple[int, float]] = deque()
        self._ordered: list[float] = []
        self._ratio = 1.0
        self._at_ns = 0

    def observe(self, predicted_ns: int, took_ns: int, now_ns: int) -> None:
        """Something that was predicted to take `predicted_ns` took `took_ns` and ended at `now_ns`."""
        ratio = min(RATIO_MAX, max(RATIO_MIN, took_ns / max(1, predicted_ns)))
        self._forget(now_ns)
        if len(self._observed) == self._window:
            self._drop_oldest()
        self._observed.append((now_ns, ratio))
        bisect.insort(self._ordered, ratio)
        count = len(self._ordered)
        if count >= ENOUGH:
            self._ratio, self._at_ns = self._ordered[min(count - 1, int(QUANTILE * count))], now_ns

    def ratio(self, now_ns: int) -> float:
        """Observed over predicted, at the quantile, relaxed for the time nothing was observed."""
        return _faded(self._ratio, self._at_ns, now_ns)

    def median(self, now_ns: int) -> float | None:
        """The usual ratio lately; None where there are too few observations."""
        self._forget(now_ns)
        return self._ordered[len(self._ordered) // 2] if len(self._ordered) >= ENOUGH else None

    def _forget(self, now_ns: int) -> None:
        """Drop what is too old. Time only goes on, so the oldest is always first."""
        while self._observed and now_ns - self._observed[0][0] > RECENT_NS:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, ratio = self._observed.popleft()
        del self._ordered[bisect.bisect_left(self._ordered, ratio)]


def _faded(ratio: float, at_ns: int, now_ns: int) -> float:
    """A ratio that was last confirmed at `at_ns`: distrust fades, good news stays."""
    if ratio <= 1.0:
        return ratio
    unconfirmed_ns = max(0, now_ns - at_ns - RECENT_NS)
    return 1.0 + (ratio - 1.0) * math.pow(0.5, unconfirmed_ns / RELAX_NS)


class LatencyModel:
    """Keeps a menu's latencies honest. Tell it of every finished run; it rescales the menu's choices.

    A choice's scale is the machine's drift times how the choice compares with the others. The first is a high quantile
    over the last runs of whatever choice, so that promises hold; the second moves slowly and within bounds, so that no
    single slow run makes a small variant look dearer than a large one, which would turn the menu upside down. Both fade
    while nothing confirms them: a choice that looks too slow for every budget it could serve is not run again, however
    busy others keep the machine.

    Compared is with what runs of late took of their profiles, not with what they took of their predictions: in those
    the comparison is contained already, and any of it would confirm itself. The choice that is run most would take the
    machine's whole drift for its own, and the others, which nothing confirms, would look as fast as at rest.
    """

    def __init__(self, menu: Menu, machine: Drift | None = None) -> None:
        """Start from the profile, and from what is known of the `machine` if another menu ran on it before."""
        self._menu = menu
        self._machine = machine or Drift(window=2 * _WINDOW)
        self._usual = Drift(window=2 * _WINDOW)
        self._choices = {(choice.variant.name, choice.threads): choice for choice in menu.choices}
        self._relative = dict.fromkeys(self._choices, 1.0)
        self._compared_ns = dict.fromkeys(self._choices, 0)

    def over(self, menu: Menu) -> LatencyModel:
        """A model of another menu on the same machine. Both may be told of runs, each of its own.

        How choices compare goes on where they go by the same profile.
        """
        model = LatencyModel(menu, self._machine)
        for key, choice in model._choices.items():
            before = self._choices.get(key)
            if before is not None and before.profile is choice.profile:
                model._relative[key], model._compared_ns[key] = self._relative[key], self._compared_ns[key]
        return model

    def run_took(self, key: tuple[str, int], batch_size: int, took_ns: int, now_ns: int) -> None:
        """A run of the choice `key` (variant, threads) with `batch_size` images took `took_ns`."""
        predicted_ns = self._choices[key].profile.latency_ns(batch_size)
        relative = self._relative_at(key, now_ns)
        usual = self._usual.median(now_ns)
        if usual is not None:
            seen = min(RELATIVE_MAX, max(1.0 / RELATIVE_MAX, took_ns / max(1, predicted_ns) / usual))
            # As factors: slow runs are slower than fast ones are fast, and their mean would lie above the usual run.
            self._relative[key] = relative * math.pow(seen / relative, RELATIVE_WEIGHT)
            self._compared_ns[key] = now_ns
        self._usual.observe(predicted_ns, took_ns, now_ns)
        self._machine.observe(round(predicted_ns * relative), took_ns, now_ns)
        self.refresh(now_ns)

    def refresh(self, now_ns: int) -> None:
        """Rescale every choice by what is known at `now_ns`."""
        machine, usual = self._machine.ratio(now_ns), self._machine.median(now_ns)
        scales = [machine * self._relative_at(key, now_ns) for key in self._choices]
        self._menu.rescale(scales, 1.0 if usual is None else min(1.0, usual / machine))

    def _relative_at(self, key: tuple[str, int], now_ns: int) -> float:
        return _faded(self._relative[key], self._compared_ns[key], now_ns)
