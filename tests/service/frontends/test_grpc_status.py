"""Errors on the gRPC wire: standard codes, standard details, and nothing of the server's insides."""

from __future__ import annotations

import re

import grpc
import pytest
from google.rpc import error_details_pb2

from service import errors
from service.frontends.grpc_status import DOMAIN, rich_status
from service.frontends.status_codes import INTERNAL, STATUS_BY_ERROR
from tests.fakes.menus import MS

KINDS = ("ErrorInfo", "RetryInfo", "BadRequest", "RequestInfo")


def made(kind: type[errors.PhiserveError]) -> errors.PhiserveError:
    return kind("why", retry_after_ns=MS) if kind is errors.Overloaded else kind("why")


def details_of(error: BaseException, request_id: str | None = None) -> dict:
    """The details by their names; each at most once."""
    found = {}
    for packed in rich_status(error, request_id).details:
        name = packed.type_url.rpartition(".")[2]
        assert name in KINDS
        assert name not in found
        found[name] = getattr(error_details_pb2, name)()
        assert packed.Unpack(found[name])
    return found


@pytest.mark.parametrize("kind", STATUS_BY_ERROR, ids=lambda kind: kind.__name__)
def test_every_error_has_its_code_and_its_reason(kind) -> None:
    """The code of the table, the error's own sentence, and the slug as `ErrorInfo` wants reasons to be spelt."""
    row, status = STATUS_BY_ERROR[kind], rich_status(made(kind))
    info = details_of(made(kind))["ErrorInfo"]
    assert (status.code, status.message) == (grpc.StatusCode[row.grpc].value[0], "why")
    assert (info.domain, info.reason.lower().replace("_", "-")) == (DOMAIN, row.slug)
    assert re.fullmatch("[A-Z][A-Z0-9_]{0,61}[A-Z0-9]", info.reason)


def test_an_error_outside_the_tree_tells_nothing() -> None:
    """A bug's text stays in the log."""
    status = rich_status(ZeroDivisionError("secret"))
    assert grpc.StatusCode.INTERNAL.value[0] == status.code
    assert "secret" not in str(status)
    assert details_of(ZeroDivisionError("secret"))["ErrorInfo"].reason.lower().replace("_", "-") == INTERNAL.slug


@pytest.mark.parametrize("kind", [errors.DeadlineExceeded, errors.StaleFrame])
def test_the_budget_that_would_have_worked_is_metadata(kind) -> None:
    """In milliseconds, and absent where nobody knows it."""
    known = details_of(kind("too tight", smallest_feasible_budget_ns=12_300_000))["ErrorInfo"]
    assert dict(known.metadata) == {"smallest_feasible_budget_ms": "12.3"}
    assert dict(details_of(kind("too tight"))["ErrorInfo"].metadata) == {}


def test_an_overloaded_server_says_when_to_come_back() -> None:
    """To the nanosecond, as the standard message has it."""
    retry = details_of(errors.Overloaded("full", retry_after_ns=1_250 * MS))["RetryInfo"]
    assert retry.retry_delay.ToNanoseconds() == 1_250 * MS


def test_parameters_at_fault_are_named_one_by_one() -> None:
    """Each with its own sentence; an argument whose parameter is not known has no such list."""
    violations = {"top_k": "must be 1", "budget_ms": "must be less"}
    named = details_of(errors.InvalidArgument("both", violations=violations))["BadRequest"]
    assert {row.field: row.description for row in named.field_violations} == violations
    assert "BadRequest" not in details_of(errors.InvalidArgument("something"))


def test_the_request_is_named_where_it_has_a_name() -> None:
    """The id finds it in the server's log."""
    assert details_of(errors.NotReady("no"), "abc")["RequestInfo"].request_id == "abc"
    assert "RequestInfo" not in details_of(errors.NotReady("no"))
