"""Which variants are loaded under a limit: within it, never without the cheapest, and not to and fro."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.footprint import Footprint
from service.core.demand import WINDOW_NS, Wish
from service.core.request import DEFAULT_POLICY, RoutingPolicy
from service.core.residency import STAY_LOADS, NoRoomError, Residency
from tests.fakes.menus import MS, choice

MIB = 1024**2
S = 1_000_000_000

FOOTPRINTS = {
    "small": Footprint(20 * MIB, 30 * MIB, 100 * MS),
    "medium": Footprint(50 * MIB, 80 * MIB, 200 * MS),
    "large": Footprint(90 * MIB, 130 * MIB, 400 * MS),
    "huge": Footprint(150 * MIB, 200 * MIB, 900 * MS),
}
CHOICES = [
    choice("small", 74.0, {1: 10}),
    choice("medium", 77.0, {1: 30}),
    choice("large", 80.0, {1: 90}),
    choice("huge", 82.0, {1: 300}),
]


def residency(room_mib: int, *loaded: str, footprints=FOOTPRINTS) -> Residency:
    found = Residency(CHOICES, footprints, room_mib * MIB, budget_ns_default=1000 * MS)
    found.began_with(loaded or found.at_start(), 0)
    return found


def wishes(
    slack_ms: float, count: float = 100, policy: RoutingPolicy = DEFAULT_POLICY, price: float = 0.0
) -> list[Wish]:
    return [Wish(0, round(slack_ms * MS), policy, price, count / 4) for _ in range(4)]


def perform(found: Residency, swap, now_ns: int) -> None:
    for name in swap.unload:
        found.was_unloaded(name)
    found.was_loaded(swap.load, now_ns)


def test_a_start_loads_what_serves_budgets_of_every_size() -> None:
    """The cheapest first, then what adds most; all of them where there is room for all."""
    assert residency(1000).loaded == set(FOOTPRINTS)
    assert residency(30).loaded == {"small"}
    # Large adds more than medium for budgets up to a second; both do not fit beside what loading takes.
    assert residency(160).loaded == {"small", "large"}


def test_no_room_for_the_cheapest_is_told_with_what_it_takes() -> None:
    """The least that would do is what loading the cheapest takes."""
    with pytest.raises(NoRoomError) as told:
        residency(29)
    assert told.value.needed_bytes == 30 * MIB


def test_a_variant_comes_when_budgets_ask_for_it_and_what_is_missed_least_goes() -> None:
    """Requests with time for medium and not for large have large unloaded for it."""
    found = residency(160)
    swap = found.review(wishes(50), WINDOW_NS)
    assert swap is not None
    assert (swap.load, swap.unload) == ("medium", ("large",))
    perform(found, swap, WINDOW_NS)
    assert found.review(wishes(50), 2 * WINDOW_NS) is None, "what is loaded is the best there is room for"


def test_no_swap_is_worth_less_than_its_gain() -> None:
    """One request in a hundred with time for something better has nothing unloaded; all of them have."""
    found = residency(160, "small", "medium")
    few = [*wishes(50, 9900), *wishes(200, 100)]
    assert found.review(few, WINDOW_NS) is None
    assert found.review(wishes(200, 50), WINDOW_NS) is None, "too few to tell"
    assert found.review(wishes(200), WINDOW_NS) is not None
    assert found.review([], WINDOW_NS) is None


def test_core_time_that_is_dear_is_not_spent_on_loading() -> None:
    """What large would be worth more is less than what 400 ms of a core earn; cheaper ones it would be worth."""
    found = residency(160, "small")
    dear = 3.0 / (80 * MS)
    assert found.review(wishes(200, 70, price=dear), WINDOW_NS) is None
    assert found.review(wishes(200, 70, price=0.0), WINDOW_NS) is not None


def test_pins_count_in_full() -> None:
    """Requests that name a variant lose all of their worth without it, so it is loaded for few of them."""
    found = residency(160)
    pinned = [*wishes(100, 36), *wishes(100, 6, RoutingPolicy(variant="medium"))]
    swap = found.review(pinned, WINDOW_NS)
    assert swap is not None
    assert swap.load == "medium"


def test_what_was_just_loaded_stays_for_a_while() -> None:
    """Nothing is unloaded for another that is named before it stayed ten times its load; then it may be."""
    found = residency(160)
    swap = found.swap_for("medium", (), 0)
    assert swap is not None
    assert swap.unload == ("large",)
    perform(found, swap, 0)
    stays_ns = STAY_LOADS * found.load_ns("medium")
    assert found.swap_for("large", (), stays_ns - 1) is None
    assert found.room_at_ns("large", 1) == stays_ns
    assert found.ready_at_ns("large", (), 1) == stays_ns + found.load_ns("large")
    assert found.swap_for("large", (), stays_ns) is not None


def test_what_is_due_before_counts() -> None:
    """Who names a variant while another one is loaded waits for that, and for its stay if it has to make room."""
    found = residency(160)
    medium_ns, large_ns = found.load_ns("medium"), found.load_ns("large")
    assert found.ready_at_ns("medium", (), 0) == medium_ns
    assert found.ready_at_ns("large", ("medium",), 0) == medium_ns + STAY_LOADS * medium_ns + large_ns
    assert found.loaded == {"small", "large"}, "asking changes nothing"


def test_what_is_held_makes_no_room() -> None:
    """A variant that is promised is not unloaded; when there is room for another cannot be said then."""
    found = residency(160)
    assert found.swap_for("medium", (), 0, held={"large"}) is None
    assert found.room_at_ns("medium", 0, held={"large"}) is None


def test_a_policy_names_what_may_serve_it() -> None:
    """A pin names its variant, a floor the one above it that is soonest loaded; what never fits nobody names."""
    found = residency(160)
    assert found.named(RoutingPolicy(variant="medium")) == "medium"
    assert found.named(RoutingPolicy(min_accuracy=76.0)) == "medium"
    assert found.named(RoutingPolicy(min_accuracy=81.0)) is None
    assert found.named(RoutingPolicy(variant="huge")) is None
    found.give_up("medium")
    assert found.named(RoutingPolicy(variant="medium")) is None


def test_loads_that_take_longer_are_promised_longer() -> None:
    """A prediction follows what loads took, up at once and down by and by."""
    found = residency(300, "small")
    found.was_loaded("medium", S, took_ns=1 * S)
    assert found.load_ns("large") >= 5 * FOOTPRINTS["large"].load_ns
    found.was_loaded("large", S, took_ns=400 * MS)
    assert FOOTPRINTS["medium"].load_ns < found.load_ns("medium") < 5 * FOOTPRINTS["medium"].load_ns


sizes = st.integers(1, 200)
footprints = st.fixed_dictionaries(
    {
        name: st.builds(
            lambda kept, more, load_ms: Footprint(kept * MIB, (kept + more) * MIB, load_ms * MS),
            sizes,
            sizes,
            st.integers(20, 3000),
        )
        for name in FOOTPRINTS
    }
)
policies = st.one_of(
    st.just(DEFAULT_POLICY),
    st.builds(RoutingPolicy, variant=st.sampled_from(sorted(FOOTPRINTS))),
    st.builds(RoutingPolicy, min_accuracy=st.sampled_from([70.0, 76.0, 79.0, 81.0])),
)
asked = st.builds(
    Wish, st.just(0), st.integers(1, 2000 * MS), policies, st.sampled_from([0.0, 1e-8, 1e-7]), st.floats(0.5, 200)
)


@given(
    footprints,
    st.integers(1, 900),
    st.lists(asked, min_size=1, max_size=12),
    st.lists(st.sampled_from(sorted(FOOTPRINTS)), max_size=8),
)
def test_whatever_is_asked_for_the_limit_holds_and_something_is_loaded(taken, room_mib, asked_for, named) -> None:
    """At no moment of any swap is more held than there is room for, nor is what must always be loaded not."""
    try:
        found = residency(room_mib, footprints=taken)
    except NoRoomError:
        return
    now_ns = 0

    def check(beside: frozenset[str], loading: str | None) -> None:
        held = found.resident_bytes(beside) + (taken[loading].loading_bytes if loading else 0)
        assert held <= room_mib * MIB
        assert set(found.always) <= beside | {loading}

    check(found.loaded, None)
    for name in named:
        now_ns += 7 * S
        for decide in (found.review, lambda wishes, at, name=name: found.swap_for(name, wishes, at)):
            swap = decide(asked_for, now_ns)
            if swap is not None and swap.load not in found.loaded:
                for victim in swap.unload:
                    found.was_unloaded(victim)
                check(found.loaded, swap.load)
                found.was_loaded(swap.load, now_ns)
                check(found.loaded, None)


@given(footprints, st.integers(1, 900), st.lists(asked, min_size=1, max_size=12))
def test_steady_demand_comes_to_rest(taken, room_mib, asked_for) -> None:
    """If the same is asked for over and over, each swap is worth more than the one before, and there are few."""
    try:
        found = residency(room_mib, footprints=taken)
    except NoRoomError:
        return
    seen = [found.loaded]
    for turn in range(1, 2 ** len(CHOICES) + 1):
        now_ns = 2 * turn * WINDOW_NS
        swap = found.review(asked_for, now_ns)
        if swap is None:
            break
        perform(found, swap, now_ns)
        assert found.loaded not in seen, f"to and fro: {seen}"
        seen.append(found.loaded)
    assert found.review(asked_for, (2 ** (len(CHOICES) + 2)) * WINDOW_NS) is None
