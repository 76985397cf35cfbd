"""The table of statuses covers the error tree and holds only codes that exist."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from service import errors
from service.errors import PhiserveError
from service.frontends.status_codes import INTERNAL, STATUS_BY_ERROR, wire_status

GRPC_CODES = {
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
}


def error_classes() -> set[type[PhiserveError]]:
    found = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PhiserveError)}
    return found - {PhiserveError}


def test_every_error_class_has_its_own_row() -> None:
    """The table's keys are exactly the classes of the error tree below its root."""
    assert set(STATUS_BY_ERROR) == error_classes()


def test_slugs_and_titles_tell_classes_apart() -> None:
    """No two error classes share a problem type or a title."""
    rows = STATUS_BY_ERROR.values()
    assert len({row.slug for row in rows}) == len({row.title for row in rows}) == len(STATUS_BY_ERROR)


@pytest.mark.parametrize("row", [*STATUS_BY_ERROR.values(), INTERNAL], ids=lambda row: row.slug)
def test_codes_exist_and_are_errors(row) -> None:
    """Each HTTP status is a registered error status and each gRPC name a real code other than OK."""
    assert 400 <= HTTPStatus(row.http) < 600
    assert row.grpc in GRPC_CODES - {"OK"}


def test_a_subclass_has_the_status_of_its_parent() -> None:
    """A class that a front end derives for itself is answered as its nearest ancestor in the table."""

    class PictureOfNothing(errors.InvalidImage):
        pass

    assert wire_status(PictureOfNothing("nothing")) == STATUS_BY_ERROR[errors.InvalidImage]


def test_errors_outside_the_tree_are_internal() -> None:
    """An exception that is none of ours is an internal error on every wire."""
    assert wire_status(ZeroDivisionError()) == INTERNAL
    assert wire_status(PhiserveError("bare")) == INTERNAL
