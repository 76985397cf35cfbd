"""The query grammar of /classify: what is meant is understood, what is not is refused with what would have worked."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.request import OnMiss, RequestOptions, RoutingPolicy
from service.errors import InvalidArgument
from service.frontends.rest_parameters import ClassifyParameters

MS = 1_000_000
BUDGET_MS_MAX = 60_000
PARAMETERS = ClassifyParameters(budget_ns_default=1000 * MS, budget_ns_max=BUDGET_MS_MAX * MS, top_k_max=20)
NAMES = [parameter["name"] for parameter in PARAMETERS.to_openapi()]

milliseconds = st.floats(min_value=0, max_value=BUDGET_MS_MAX, exclude_min=True)
given_values = st.fixed_dictionaries(
    {},
    optional={
        "budget_ms": milliseconds,
        "top_k": st.integers(1, 20),
        "variant": st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=64),
        "min_accuracy": st.floats(min_value=0, max_value=100).map(abs),
        "target_ms": milliseconds,
        "priority": st.integers(0, 9),
        "on_miss": st.sampled_from(OnMiss),
    },
)


def refusal(query: str) -> str:
    with pytest.raises(InvalidArgument) as caught:
        PARAMETERS.parse(query.encode())
    return caught.value.detail


def test_no_query_means_the_defaults() -> None:
    """An empty query string gives the server's default budget, five classes and the default policy."""
    assert PARAMETERS.parse(b"") == RequestOptions(budget_ns=None, top_k=5, policy=RoutingPolicy())


def test_the_default_of_top_k_respects_a_smaller_bound() -> None:
    """Where fewer than five classes may be asked for, the default is that bound."""
    parameters = ClassifyParameters(budget_ns_default=MS, budget_ns_max=MS, top_k_max=3)
    assert parameters.parse(b"").top_k == 3


@given(values=given_values, order=st.randoms(use_true_random=False))
def test_every_valid_value_arrives_as_it_was_meant(values, order) -> None:
    """Whatever valid values are given, in whatever order, come out as the options they spell."""
    pairs = list(values.items())
    order.shuffle(pairs)
    options = PARAMETERS.parse(urlencode(pairs).encode())

    def as_ns(name: str) -> int | None:
        return max(1, round(values[name] * MS)) if name in values else None

    assert options == RequestOptions(
        budget_ns=as_ns("budget_ms"),
        top_k=values.get("top_k", 5),
        policy=RoutingPolicy(
            variant=values.get("variant"),
            min_accuracy=values.get("min_accuracy"),
            target_ns=as_ns("target_ms"),
            on_miss=values.get("on_miss", OnMiss.REJECT),
            priority=values.get("priority", 0),
        ),
    )


@given(query=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(query) -> None:
    """No query string, however malformed, ends in anything but options within bounds or an InvalidArgument."""
    try:
        options = PARAMETERS.parse(query)
    except InvalidArgument:
        return
    assert options.budget_ns is None or 0 < options.budget_ns <= BUDGET_MS_MAX * MS
    assert 1 <= options.top_k <= 20


@pytest.mark.parametrize("name", ["budget_ms", "target_ms"])
@pytest.mark.parametrize(
    "value",
    ["", "0", "-5", "+5", "nan", "inf", "1e999", "1_0", " 5", "5ms", "0x10", "٣", "60000.001", "1e9", "1," * 99],
)
def test_milliseconds_out_of_grammar_or_range_are_refused(name, value) -> None:
    """What is not a decimal number above 0 and up to the maximum is refused, and the maximum is named."""
    assert f"{name} must be a number of milliseconds above 0 and at most 60000" in refusal(f"{name}={quote(value)}")


@pytest.mark.parametrize("value", ["0", "21", "-1", "1.0", "five", "", "1e1", "9" * 5000])
def test_top_k_out_of_range_is_refused(value) -> None:
    """Only an integer within the bounds is taken, however many digits it has."""
    assert "top_k must be an integer from 1 to 20" in refusal(f"top_k={value}")


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("priority=10", "priority must be an integer from 0 to 9, got '10'"),
        ("min_accuracy=100.1", "min_accuracy must be a number of percent from 0 to 100"),
        ("on_miss=maybe", "on_miss must be reject or late, got 'maybe'"),
        ("on_miss=LATE", "on_miss must be reject or late"),
        ("variant=", "variant must be the name of a variant, see GET /variants"),
        ("variant=" + "b" * 65, "variant must be the name of a variant"),
        ("variant=a%0Ab", "variant must be the name of a variant"),
    ],
)
def test_a_refusal_says_what_would_have_worked(query, hint) -> None:
    """The detail names the parameter, what it takes and what it got."""
    assert hint in refusal(query)


def test_the_bounds_themselves_are_taken() -> None:
    """The largest budget, accuracy and priority are inside."""
    options = PARAMETERS.parse(b"budget_ms=60000&min_accuracy=100&priority=9&top_k=20")
    assert options.budget_ns == 60_000 * MS
    assert (options.policy.min_accuracy, options.policy.priority, options.top_k) == (100.0, 9, 20)


def test_a_tiny_budget_is_not_taken_for_none() -> None:
    """A budget that rounds to zero nanoseconds stays a budget, and does not become the server's default."""
    assert PARAMETERS.parse(b"budget_ms=1e-9").budget_ns == 1


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    """A misspelt parameter is never ignored, and the answer lists every name there is."""
    detail = refusal("budget=5")
    assert "no parameter is named 'budget'" in detail
    assert all(name in detail for name in NAMES)


def test_a_parameter_given_twice_is_refused() -> None:
    """Two values leave open which one was meant, even when they are equal."""
    assert refusal("top_k=3&top_k=3") == "top_k is given more than once; give it once"


def test_all_faults_are_told_at_once() -> None:
    """Every fault of a query appears in the one answer."""
    detail = refusal("top_k=0&priority=x&colour=red")
    assert all(word in detail for word in ("top_k", "priority", "colour"))


@pytest.mark.parametrize("query", [b"variant=\xff", b"variant=%FF", "variant=ü".encode()])
def test_text_that_is_not_percent_encoded_utf8_is_refused(query) -> None:
    """Raw or encoded bytes outside of UTF-8 are a malformed query, not a crash."""
    with pytest.raises(InvalidArgument, match="percent-encoded UTF-8"):
        PARAMETERS.parse(query)


def test_the_number_of_parameters_is_bounded() -> None:
    """A query of very many parameters is refused before they are looked at."""
    assert "too many parameters" in refusal("&".join("a=1" for _ in range(1000)))


def test_a_long_value_is_not_echoed_whole() -> None:
    """What a caller sent is shown only so far that it can be recognised."""
    assert len(refusal("on_miss=" + "x" * 10_000)) < 200
