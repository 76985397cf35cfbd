"""Messages carry the same values as the REST wire, and are refused in the same words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiserve.v1 import classifier_pb2 as pb
from service.core.request import OnMiss, RequestOptions, RoutingPolicy
from service.errors import ImageTooLarge, InvalidArgument, InvalidImage
from service.frontends import rest_answer
from service.frontends.grpc_messages import RequestReader, classify_response, list_response, within_call
from service.frontends.grpc_peer import host_of
from service.frontends.rest_parameters import ClassifyParameters
from tests.fakes.engine import ScriptedEngine, classification
from tests.fakes.menus import MS

BUDGET_MS_MAX = 60_000
PARAMETERS = ClassifyParameters(budget_ns_default=1000 * MS, budget_ns_max=BUDGET_MS_MAX * MS, top_k_max=20)
READER = RequestReader(PARAMETERS, image_bytes_max=100)
ON_MISS = {"reject": pb.ON_MISS_REJECT, "late": pb.ON_MISS_LATE}

any_double = st.floats(allow_nan=True, allow_infinity=True)
fields = st.fixed_dictionaries(
    {},
    optional={
        "budget_ms": any_double,
        "target_ms": any_double,
        "min_accuracy": any_double,
        "top_k": st.integers(1, 2**32 - 1),
        "priority": st.integers(1, 2**32 - 1),
        "variant": st.text(min_size=1, max_size=80),
        "on_miss": st.sampled_from(sorted(ON_MISS)),
    },
)


def read(**given) -> RequestOptions:
    request = pb.ClassifyRequest(**({"image": b"picture"} | given))
    image, options = READER.read(request)
    assert image == request.image
    return options


def outcome(read_options: Callable[[], RequestOptions]) -> object:
    """What was read, or what is wrong with it, whatever the order of the parameters."""
    try:
        return read_options()
    except InvalidArgument as error:
        return sorted(error.detail.split("; ")), dict(error.violations)


@given(values=fields)
def test_a_message_means_what_the_same_query_means(values) -> None:
    """Whatever values: both wires read the same options, or refuse with the same sentences, each by its parameter."""
    message = values | ({"on_miss": ON_MISS[values["on_miss"]]} if "on_miss" in values else {})
    query = urlencode({name: str(value) for name, value in values.items()}).encode()
    assert outcome(lambda: read(**message)) == outcome(lambda: PARAMETERS.parse(query))


def test_zeros_that_the_contract_calls_unset_are_unset() -> None:
    """An empty message but for the image is a request with every default."""
    assert read(top_k=0, variant="", priority=0, on_miss=pb.ON_MISS_UNSPECIFIED) == RequestOptions()
    assert read(on_miss=pb.ON_MISS_LATE).policy == RoutingPolicy(on_miss=OnMiss.LATE)


def test_a_zero_that_is_set_is_a_value() -> None:
    """A budget of 0 ms is refused and does not become the default."""
    with pytest.raises(InvalidArgument, match=r"budget_ms must be .* above 0 .*, got '0\.0'"):
        read(budget_ms=0)


def test_a_way_of_missing_that_is_not_known_here_is_refused() -> None:
    """A newer client's enum value is not taken for another."""
    with pytest.raises(InvalidArgument, match="on_miss must be reject or late, got '7'"):
        read(on_miss=7)


def test_images_have_a_bound_and_a_least_length() -> None:
    """The bound itself is taken; one byte more, and none at all, are refused."""
    assert read(image=b"x" * 100) == RequestOptions()
    with pytest.raises(ImageTooLarge, match="at most 100 bytes"):
        read(image=b"x" * 101)
    with pytest.raises(InvalidImage, match="empty"):
        read(image=b"")


@pytest.mark.parametrize(
    ("budget_ns", "left_ns", "expected_ns"),
    [
        (None, None, None),
        (None, 30 * MS, 30 * MS),
        (20 * MS, 30 * MS, 20 * MS),
        (40 * MS, 30 * MS, 40 * MS),
        (None, 3_600_000 * MS, BUDGET_MS_MAX * MS),
        (None, -5, 1),
    ],
)
def test_a_deadline_is_a_budget_where_none_is_named(budget_ns, left_ns, expected_ns) -> None:
    """Within the server's bound, and never none: a deadline that has passed is not the default budget."""
    options = RequestOptions(budget_ns, 3)
    expected = dataclasses.replace(options, budget_ns=expected_ns)
    assert within_call(options, left_ns, BUDGET_MS_MAX * MS) == expected


@pytest.mark.parametrize(
    "found",
    [
        classification(top_k=3, degraded_from="large"),
        classification(top1=None, trained=False, wnids=False, budget_met=False),
    ],
    ids=["usual", "bare"],
)
def test_an_answer_says_what_the_rest_answer_says(found) -> None:
    """Field by field, times to the microsecond; an untrained variant is marked."""
    answer, expected = classify_response(found), rest_answer.answer(found)
    assert [(row.index, row.wnid or None, row.label) for row in answer.predictions] == [
        (row["index"], row["wnid"], row["label"]) for row in expected["predictions"]
    ]
    for row, other in zip(answer.predictions, expected["predictions"], strict=True):
        assert row.probability == pytest.approx(other["probability"], abs=1e-6)
    for name in ("name", "precision", "resolution", "trained"):
        assert getattr(answer.variant, name) == expected["variant"][name]
    top1 = answer.variant.top1 if answer.variant.HasField("top1") else None
    assert top1 == expected["variant"]["top1"]
    assert answer.variant.routable
    for stage, milliseconds in expected["timings_ms"].items():
        assert getattr(answer.timings, f"{stage}_ms") == pytest.approx(milliseconds, abs=1e-3)
    assert (answer.budget_ms, answer.budget_met, answer.batch_size, answer.degraded_from or None) == (
        expected["budget_ms"],
        expected["budget_met"],
        expected["batch_size"],
        expected["degraded_from"],
    )


def test_a_budget_has_to_cover_what_an_answer_was_held_back_for() -> None:
    """9 ms of service in a budget of 40 leave 31: what is held longer is in time no more."""
    found = classification(budget_ns=40 * MS)
    met = [classify_response(found, held_ns=held_ms * MS).budget_met for held_ms in (0, 30, 31)]
    assert met == [True, True, False]


def test_the_menu_has_every_variant_in_order() -> None:
    """What is not served is on it, and marked."""
    rows = list_response(ScriptedEngine().variants()).variants
    assert [(row.name, row.trained, row.routable) for row in rows] == [
        ("large", True, True),
        ("unknown", False, False),
    ]


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.7:4321", "192.0.2.7"),
        ("ipv6:%5B2001:db8::1%5D:4321", "2001:db8::1"),
        ("ipv6:[::1]:4321", "::1"),
        ("unix:/run/phiserve.sock", "unix:/run/phiserve.sock"),
        ("", ""),
    ],
)
def test_a_client_is_known_by_its_host(peer, host) -> None:
    """Without the port, which is another for each connection, and as the HTTP server writes it."""
    assert host_of(peer) == host
