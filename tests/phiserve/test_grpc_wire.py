"""The gRPC wire as the client reads and writes it: every error of the contract, and what others say on it."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiserve import (
    ConnectionFailed,
    ImageTooLarge,
    InvalidArgument,
    Overloaded,
    PhiserveError,
    TimedOut,
    Unauthenticated,
    UnexpectedAnswer,
    grpc_wire,
)
from phiserve.call_options import CallOptions
from phiserve.errors import ERROR_BY_SLUG
from phiserve.retry import is_transient
from phiserve.v1 import classifier_pb2
from service import errors as service_errors
from service.frontends import http_problems
from service.frontends.grpc_messages import classify_response
from service.frontends.grpc_status import rich_status
from service.frontends.status_codes import STATUS_BY_ERROR, wire_status
from tests.fakes.engine import classification
from tests.fakes.menus import MS

ERRORS = [
    service_errors.DeadlineExceeded("too tight", smallest_feasible_budget_ns=12 * MS),
    service_errors.DeadlineExceeded("too tight"),
    service_errors.Overloaded("full", retry_after_ns=350 * MS),
    *(
        kind("no")
        for kind in STATUS_BY_ERROR
        if kind not in (service_errors.DeadlineExceeded, service_errors.Overloaded)
    ),
]
CODES = [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_errors_are_the_same_as_over_rest(error) -> None:
    """The class, the detail, what would have worked and the request's id; as a problem it is the one that REST has."""
    row = wire_status(error)
    trailing = [("grpc-status-details-bin", rich_status(error, "a/7").SerializeToString())]
    found = grpc_wire.call_error(row.grpc, error.detail, trailing)
    assert type(found) is ERROR_BY_SLUG[row.slug]
    assert found.problem() == http_problems.problem(error, "a/7")
    assert found.request_id == "a/7"


@pytest.mark.parametrize(
    ("code", "details", "expected", "transient"),
    [
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", TimedOut, False),
        ("UNAVAILABLE", "failed to connect to all addresses", ConnectionFailed, True),
        ("UNAVAILABLE", "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", ConnectionFailed, False),
        ("CANCELLED", "the server went away", ConnectionFailed, True),
        ("INTERNAL", "Internal error from Core", ConnectionFailed, True),
        ("INTERNAL", "an exception of somebody's", UnexpectedAnswer, False),
        ("UNAUTHENTICATED", "no token", Unauthenticated, False),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)", ImageTooLarge, False),
        ("RESOURCE_EXHAUSTED", "Concurrent RPC limit exceeded!", Overloaded, True),
        ("UNIMPLEMENTED", "Method not found!", UnexpectedAnswer, False),
        ("UNKNOWN", "an exception of somebody's", UnexpectedAnswer, False),
    ],
)
def test_statuses_of_the_library_itself_have_their_errors(code, details, expected, transient) -> None:
    """A status without details of ours was written by gRPC or a proxy, and is sent again only where that is safe."""
    found = grpc_wire.call_error(code, details, [])
    assert type(found) is expected
    assert is_transient(found) is transient


@given(
    code=st.sampled_from(CODES),
    details=st.text(),
    trailing=st.lists(st.tuples(st.sampled_from(["grpc-status-details-bin", "other"]), st.text() | st.binary())),
)
def test_whatever_a_call_ends_with_is_an_error_of_the_tree(code, details, trailing) -> None:
    """Trailers that are damaged or somebody else's never become a traceback of ours."""
    assert isinstance(grpc_wire.call_error(code, details, trailing), PhiserveError)


def test_details_that_are_damaged_are_left_out() -> None:
    """What names a message and does not hold one costs what it would have said, and no traceback."""
    status = rich_status(service_errors.Overloaded("full", retry_after_ns=MS))
    status.details[1].value = b"\xff\xff"
    found = grpc_wire.status_error(status)
    assert isinstance(found, Overloaded)
    assert found.retry_after_s is None


@pytest.mark.parametrize("options", [{"top_k": 2**40}, {"priority": -1}, {"min_accuracy": "high"}], ids=str)
def test_numbers_that_no_field_holds_are_invalid_arguments(options) -> None:
    """What cannot be put on the wire is refused with the same class as what the server refuses."""
    with pytest.raises(InvalidArgument):
        grpc_wire.classify_request(b"cat", CallOptions(**options), None)


def test_what_is_not_asked_is_not_on_the_wire() -> None:
    """Nothing but the image, and no field that has presence is set."""
    request = grpc_wire.classify_request(b"cat", CallOptions(), None)
    assert [field.name for field, _ in request.ListFields()] == ["image"]
    asked = grpc_wire.classify_request(b"cat", CallOptions(budget_ms=20), 5 * MS)
    assert asked.budget_ms == 5.0


def test_unknown_members_are_none() -> None:
    """Empty strings and absent accuracies are what the contract has for None."""
    answer = classification(top1=None, wnids=False)
    found = grpc_wire.classification(classify_response(answer))
    assert (found.variant.top1, found.best.wnid, found.degraded_from) == (None, None, None)


def test_readiness_is_asked_of_the_service_that_classifies() -> None:
    """By the name that the contract gives it."""
    assert classifier_pb2.DESCRIPTOR.services_by_name["Classifier"].full_name == grpc_wire.SERVICE
