"""What a policy allows, and which batch sizes are worth planning."""

from __future__ import annotations

import pytest

from service.core.menu import Menu
from service.core.request import RoutingPolicy
from service.errors import InvalidArgument, UnknownVariant
from tests.fakes.menus import MS, choice, cpu_menu, gpu_menu, names, two_width_menu


def test_orders_by_accuracy() -> None:
    """Without restrictions a policy allows every choice, most accurate first."""
    assert names(cpu_menu().allowed(RoutingPolicy())) == ["large", "medium", "small"]


def test_a_pin_allows_one_variant() -> None:
    """A pinned request may only run on its variant."""
    assert names(cpu_menu().allowed(RoutingPolicy(variant="small"))) == ["small"]


def test_an_unknown_pin_names_the_known_ones() -> None:
    """An unknown variant is an error that says what would have worked."""
    with pytest.raises(UnknownVariant, match="no variant 'huge'; try one of large, medium, small"):
        cpu_menu().allowed(RoutingPolicy(variant="huge"))


def test_an_untrained_pin_is_told_apart_from_an_unknown_one() -> None:
    """A variant that exists but may not be routed to is refused with that reason."""
    menu = Menu([choice("small", 75, {1: 10})], known=["small", "b7"])
    with pytest.raises(UnknownVariant, match="'b7' is untrained"):
        menu.allowed(RoutingPolicy(variant="b7"))


def test_min_accuracy_excludes_the_less_accurate() -> None:
    """Variants below `min_accuracy` are excluded; if none is left the best figure is named."""
    assert names(cpu_menu().allowed(RoutingPolicy(min_accuracy=77))) == ["large", "medium"]
    with pytest.raises(InvalidArgument, match="the best has 80"):
        cpu_menu().allowed(RoutingPolicy(min_accuracy=80.1))


def test_min_accuracy_contradicting_a_pin_is_refused() -> None:
    """A pin to a variant below `min_accuracy` cannot be served."""
    with pytest.raises(InvalidArgument, match="the best has 75"):
        cpu_menu().allowed(RoutingPolicy(variant="small", min_accuracy=76))


def test_batches_are_planned_only_where_they_save_time() -> None:
    """Where a batch costs its size times one image only size 1 is planned; where batching pays, all sizes are."""
    assert {c.batch_sizes for c in cpu_menu().choices} == {(1,)}
    assert {c.batch_sizes for c in gpu_menu().choices} == {(1, 2, 4, 8, 16)}


def test_best_within_is_the_most_accurate_that_fits() -> None:
    """`best_within` is MaxAcc: the most accurate single-image run within a budget, None below the fastest."""
    menu = cpu_menu()
    found = [menu.best_within(round(ms * MS), RoutingPolicy()) for ms in (9.9, 10, 19, 20, 50, 1000)]
    assert [c and c.variant.name for c in found] == [None, "small", "small", "medium", "large", "large"]


def test_a_menu_needs_a_choice() -> None:
    """An empty menu is refused at start, not at the first request."""
    with pytest.raises(ValueError, match="at least one routable variant"):
        Menu([])


def test_the_fastest_of_each_width_follows_what_runs_take() -> None:
    """Per width the fastest run, and the cheapest choice, as predictions stand now."""
    menu = two_width_menu()
    assert menu.fastest_by_width == ((1, 10 * MS), (2, 6 * MS))
    assert (menu.cheapest_at(2).variant.name, menu.cheapest_at(2).threads) == ("small", 2)
    scales = {("small", 1): 10.0, ("small", 2): 2.0, ("large", 1): 1.0, ("large", 2): 0.3}
    menu.rescale([scales[choice.variant.name, choice.threads] for choice in menu.choices])
    assert menu.fastest_by_width == ((1, 50 * MS), (2, 9 * MS))
    assert menu.fastest_ns(RoutingPolicy(variant="small")) == 12 * MS
    assert menu.cheapest_at(2).variant.name == "large"


def test_batches_are_planned_only_where_the_machine_makes_them_pay() -> None:
    """A fifth saved, as int8 saves on a CPU, is not worth a batch; beside a choice that halves its cost it is."""
    saves_a_fifth = {1: 5, 2: 8.2, 4: 16, 8: 31}
    halves = {1: 4, 2: 4.5, 4: 5.5}
    (alone,) = Menu([choice("small", 75.0, saves_a_fifth)]).choices
    assert alone.batch_sizes == (1,)
    beside = Menu([choice("small", 75.0, saves_a_fifth), choice("large", 80.0, halves)]).choices
    assert [found.batch_sizes for found in beside] == [(1, 2, 4), (1, 2)]
