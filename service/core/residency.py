"""Which variants are loaded where memory has room for some: which to load, and which to unload for it.

A variant is worth what requests of the last minute would have lost without it, at the price that core time had. The
cheapest and the fastest stay, since promises at the door are made by them. Knows bytes and nanoseconds by what was
measured of them; loads nothing, and reads no clock.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from model_store.footprint import Footprint
from service.core.demand import WINDOW_NS, Wish, Worth, prior
from service.core.menu import Choice, Menu
from service.core.request import RoutingPolicy

STAY_LOADS = 10
"""A variant that was loaded since somebody named it stays for so many times as long as that took, so that callers who
name two in turn, where there is room for one, cannot fill a core with loading."""

GAIN_MIN = 0.1
"""Top-1 points, for each request of the last minute, that other variants must be worth more before any is swapped."""

GAIN_SUM_MIN = 200.0
"""And in all: what three requests lose that name a variant, or a hundred that would be two points better with it."""


# What a load beside others takes at first guess, in what it took in a process of its own; each one teaches better.
_SLOWNESS = 1.5


@dataclass(frozen=True, slots=True)
class Swap:
    """Load `load` once `unload` are unloaded."""

    load: str
    unload: tuple[str, ...]


class NoRoomError(Exception):
    """Not even what must always be loaded fits, which takes `needed_bytes`."""

    def __init__(self, needed_bytes: int) -> None:
        """See the class."""
        super().__init__(f"what must always be loaded takes {needed_bytes} bytes")
        self.needed_bytes = needed_bytes


class Residency:
    """What is loaded, since when, and what should be instead."""

    def __init__(
        self,
        choices: Sequence[Choice],
        footprints: Mapping[str, Footprint],
        room_bytes: int,
        *,
        budget_ns_default: int,
        unfit: Collection[str] = (),
    ) -> None:
        """Nothing is loaded. `room_bytes` is for variants alone; `choices` are of all that may be loaded.

        `unfit`: variants for which there is no room even alone, so that they have no choices.

        Raises:
            NoRoomError: there is no room for the cheapest and the fastest.
        """
        self.choices = tuple(choices)
        self._footprints = footprints
        self.room_bytes = self._room_bytes_max = room_bytes
        self._prior = prior(self.choices, budget_ns_default)
        self._prior_worth = Worth(self.choices, self._prior)
        self._since_ns: dict[str, int] = {}
        self._slowness = _SLOWNESS
        self._given_up: set[str] = set()
        self._unfit = frozenset(unfit)
        self.always = _always(self.choices, footprints)
        needed = self.needed_bytes(self.always)
        if needed > room_bytes:
            raise NoRoomError(needed)

    # What there is --------------------------------------------------------------------------------------

    @property
    def loaded(self) -> frozenset[str]:
        """Those that are loaded."""
        return frozenset(self._since_ns)

    @property
    def unloaded(self) -> tuple[str, ...]:
        """Those that are not, in the order of the choices."""
        return tuple(dict.fromkeys(c.variant.name for c in self.choices if c.variant.name not in self._since_ns))

    def menu(self, variants: Collection[str], known: Collection[str]) -> Menu:
        """Of `variants`, which are loaded; `known` are all that the store has."""
        chosen = [choice for choice in self.choices if choice.variant.name in variants]
        others = {choice.variant.name for choice in self.choices}.difference(variants)
        # Choices of its own: each menu is corrected by what runs say of it.
        copies = [Choice(choice.variant, choice.accuracy, choice.profile) for choice in chosen]
        return Menu(copies, known=known, unloaded=others | self._unfit)

    def resident_bytes_by_variant(self) -> dict[str, int]:
        """What each variant holds once loaded, whether it is or not."""
        return {name: self._footprints[name].resident_bytes for name in self._names()}

    def resident_bytes(self, variants: Iterable[str]) -> int:
        """What they hold together once loaded."""
        return sum(self._footprints[name].resident_bytes for name in variants)

    def needed_bytes(self, variants: Sequence[str]) -> int:
        """The most that is held while `variants` are loaded in this order."""
        return max(
            self.resident_bytes(variants[:at]) + self._footprints[name].loading_bytes
            for at, name in enumerate(variants)
        )

    def fits(self, variant: str, beside: Collection[str]) -> bool:
        """Whether there is room to load `variant` while `beside` are loaded."""
        return self.resident_bytes(beside) + self._footprints[variant].loading_bytes <= self.room_bytes

    def ever_fits(self, variant: str) -> bool:
        """Whether it could be loaded if nothing else was that need not be, and others held no more than reckoned."""
        needed = self.resident_bytes(self.always) + self._footprints[variant].loading_bytes
        return variant not in self._given_up and (variant in self.always or needed <= self._room_bytes_max)

    def load_ns(self, variant: str) -> int:
        """What loading it takes, by what was measured and by what loads took lately."""
        return int(self._footprints[variant].load_ns * self._slowness)

    # What happened ---------------------------------------------------------------------------------------

    def began_with(self, variants: Iterable[str], now_ns: int) -> None:
        """They were loaded at the start, for nobody: each may be unloaded as soon as another is worth more."""
        self._since_ns = dict.fromkeys(variants, now_ns - WINDOW_NS)

    def was_loaded(self, variant: str, now_ns: int, took_ns: int | None = None) -> None:
        """It is loaded from now on; `took_ns` from asking for it, where it was loaded in a hurry."""
        self._since_ns[variant] = now_ns
        if took_ns is not None:
            seen = took_ns / self._footprints[variant].load_ns
            # The slowest of late, forgotten by a quarter with each that is quicker: a promise should hold.
            self._slowness = max(1.0, seen, 0.75 * self._slowness + 0.25 * seen)

    def was_unloaded(self, variant: str) -> None:
        """It is not loaded any more."""
        del self._since_ns[variant]

    def others_hold(self, more_bytes: int) -> None:
        """The server holds so many bytes more beside its variants than was reckoned with; less than none is no more.

        There is so much less room from now on, but for what must always be loaded: what is loaded stays until something
        else is wanted.
        """
        left = self._room_bytes_max - max(0, more_bytes)
        self.room_bytes = max(left, self.needed_bytes(self.always))

    def give_up(self, variant: str) -> None:
        """It could not be loaded, and never will be."""
        self._given_up.add(variant)

    # What to do -----------------------------------------------------------------------------------------

    def at_start(self) -> tuple[str, ...]:
        """What to load at a start, in this order: what must be, then by what each adds for budgets of every size."""
        chosen = list(self.always)
        worth = self._prior_worth
        while fitting := [name for name in self._names() if name not in chosen and self.fits(name, chosen)]:
            chosen.append(max(fitting, key=lambda name: worth.of([*chosen, name])))
        return tuple(chosen)

    def named(self, policy: RoutingPolicy) -> str | None:
        """The quickest to be loaded of the variants that `policy` allows and that could be; None if there is none."""
        floor = policy.min_accuracy
        names = [
            choice.variant.name
            for choice in self.choices
            if policy.variant in {None, choice.variant.name}
            and (floor is None or (choice.variant.top1 is not None and choice.variant.top1 >= floor))
            and self.ever_fits(choice.variant.name)
        ]
        return min(names, key=self.load_ns, default=None)

    def run_ns(self, variant: str) -> int:
        """The fastest run of one image of it, by its profile."""
        return min(choice.alone_ns for choice in self.choices if choice.variant.name == variant)

    def room_at_ns(self, variant: str, now_ns: int, held: Collection[str] = ()) -> int | None:
        """When there is room for `variant` at the earliest, with `held` kept; None if that cannot be said."""
        ends = sorted({now_ns, *(end for name in self._since_ns if (end := self._stays_until_ns(name)) > now_ns)})
        return next((at for at in ends if self.fits(variant, self.loaded - self._free(at, held))), None)

    def ready_at_ns(self, variant: str, due: Sequence[str], now_ns: int, held: Collection[str] = ()) -> int | None:
        """When `variant` would be loaded, after those that are `due` before it; None if that cannot be said."""
        after, at_ns = self._copy(), now_ns
        for name in [*(name for name in due if name != variant), variant]:
            if name in after.loaded:
                continue
            room_ns = after.room_at_ns(name, at_ns, held)
            swap = None if room_ns is None else after.swap_for(name, (), room_ns, held)
            if room_ns is None or swap is None:
                return None
            for victim in swap.unload:
                after.was_unloaded(victim)
            at_ns = room_ns + self.load_ns(name)
            after.was_loaded(name, at_ns)
        return at_ns

    def swap_for(
        self, variant: str, wishes: Sequence[Wish], now_ns: int, held: Collection[str] = (), ratio: float = 1.0
    ) -> Swap | None:
        """How to load `variant`, which somebody named, at the least loss for others; None while there is no room."""
        worth = Worth(self.choices, (*wishes, *self._prior), ratio)
        return self._make_room(variant, self._free(now_ns, held), worth)

    def review(
        self, wishes: Sequence[Wish], now_ns: int, held: Collection[str] = (), ratio: float = 1.0
    ) -> Swap | None:
        """The swap that would have been worth most for `wishes`, if any is worth its load."""
        if not wishes:
            return None
        worth, loaded = Worth(self.choices, (*wishes, *self._prior), ratio), self.loaded
        requests = sum(wish.weight for wish in wishes)
        price = sum(wish.weight * wish.price for wish in wishes) / requests
        # What was loaded less than a window ago has not been seen at what it was loaded for.
        free = {name for name in self._free(now_ns, held) if now_ns - self._since_ns[name] >= WINDOW_NS}
        best, best_gain = None, max(GAIN_SUM_MIN, GAIN_MIN * requests)
        now_worth = worth.of(loaded)
        for name in filter(self.ever_fits, self.unloaded):
            cost = price * self.load_ns(name)
            if worth.of(loaded | {name}) - now_worth - cost <= best_gain:
                continue
            swap = self._make_room(name, free, worth)
            if swap is None:
                continue
            gain = worth.of(loaded.difference(swap.unload) | {name}) - now_worth - cost
            if gain > best_gain:
                best, best_gain = swap, gain
        return best

    def _make_room(self, variant: str, free: Collection[str], worth: Worth) -> Swap | None:
        """Unload of `free` what is missed least beside `variant`, and no more than has to be."""
        kept, candidates = set(self._since_ns), set(free)
        unload: list[str] = []
        while not self.fits(variant, kept):
            if not candidates:
                return None
            victim = max(
                sorted(candidates),
                key=lambda name: (worth.of(kept - {name} | {variant}), self._footprints[name].resident_bytes),
            )
            candidates.remove(victim)
            kept.remove(victim)
            unload.append(victim)
        for name in reversed(unload):
            if self.fits(variant, kept | {name}):
                kept.add(name)
        return Swap(variant, tuple(name for name in unload if name not in kept))

    def _copy(self) -> Residency:
        """One that can be told of what has not happened."""
        copied = copy.copy(self)
        copied._since_ns = dict(self._since_ns)  # noqa: SLF001  its own class
        return copied

    def _free(self, at_ns: int, held: Collection[str]) -> set[str]:
        """What may be unloaded at `at_ns`."""
        spared = {*self.always, *held}
        return {name for name in self._since_ns if name not in spared and self._stays_until_ns(name) <= at_ns}

    def _stays_until_ns(self, variant: str) -> int:
        return self._since_ns[variant] + min(WINDOW_NS, STAY_LOADS * self.load_ns(variant))

    def _names(self) -> list[str]:
        return list(dict.fromkeys(choice.variant.name for choice in self.choices))


def _always(choices: Sequence[Choice], footprints: Mapping[str, Footprint]) -> tuple[str, ...]:
    """The variants of the cheapest and of the fastest choice, the one first that takes more to load than to keep."""
    cheapest = min(choices, key=lambda choice: (choice.core_ns_per_image, -choice.accuracy)).variant.name
    fastest = min(choices, key=lambda choice: (choice.alone_ns, -choice.accuracy)).variant.name

    def extra(name: str) -> int:
        return footprints[name].loading_bytes - footprints[name].resident_bytes

    return tuple(sorted({cheapest, fastest}, key=extra, reverse=True))
