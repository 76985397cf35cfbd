"""Every error over HTTP is problem+json with its class's status, and tells what would have worked."""

from __future__ import annotations

import pytest

from service import errors
from service.frontends.status_codes import STATUS_BY_ERROR

PROBLEM = "application/problem+json"


def an_error(kind: type[errors.PhiserveError]) -> errors.PhiserveError:
    extra = {"retry_after_ns": 1} if kind is errors.Overloaded else {}
    return kind("what was wrong", **extra)


@pytest.mark.parametrize("kind", STATUS_BY_ERROR, ids=lambda kind: kind.__name__)
def test_each_error_class_is_answered_by_the_table(client, engine, kind) -> None:
    """An error of the engine becomes a problem with the type, title and status of its row, and its own detail."""
    engine.failures[b"image"] = an_error(kind)
    response = client.post("/classify", content=b"image", headers={"X-Request-ID": "abc"})
    row = STATUS_BY_ERROR[kind]
    assert response.status_code == row.http
    assert response.headers["content-type"] == PROBLEM
    body = response.json()
    assert body["type"] == f"/problems/{row.slug}"
    assert (body["title"], body["status"], body["detail"]) == (row.title, row.http, "what was wrong")
    assert body["instance"] == "urn:phiserve:request:abc"


@pytest.mark.parametrize("kind", STATUS_BY_ERROR, ids=lambda kind: kind.__name__)
def test_each_problem_type_can_be_looked_up(client, kind) -> None:
    """The `type` of a problem is a path of this server that explains it."""
    response = client.get(f"/problems/{STATUS_BY_ERROR[kind].slug}")
    assert response.status_code == 200
    assert response.json()["title"] == STATUS_BY_ERROR[kind].title
    assert response.json()["description"]


def test_an_unmet_budget_names_the_smallest_feasible_one(client, engine) -> None:
    """504 carries the budget that would have been met, in milliseconds; without one the member is absent."""
    engine.failures[b"known"] = errors.DeadlineExceeded("too late", smallest_feasible_budget_ns=11_100_000)
    engine.failures[b"unknown"] = errors.DeadlineExceeded("too late")
    assert client.post("/classify", content=b"known").json()["smallest_feasible_budget_ms"] == 11.1
    assert "smallest_feasible_budget_ms" not in client.post("/classify", content=b"unknown").json()


@pytest.mark.parametrize(("wait_ns", "seconds"), [(0, "1"), (1, "1"), (1_000_000_000, "1"), (1_000_000_001, "2")])
def test_overload_says_when_to_come_back(client, engine, wait_ns, seconds) -> None:
    """429 carries whole seconds, at least one and rounded up, in Retry-After, and exact milliseconds in the body."""
    engine.failures[b"image"] = errors.Overloaded("full", retry_after_ns=wait_ns)
    response = client.post("/classify", content=b"image")
    assert response.headers["retry-after"] == seconds
    assert response.json()["retry_after_ms"] == wait_ns / 1e6


def test_missing_credentials_name_the_scheme(client, engine) -> None:
    """401 carries the challenge that RFC 9110 asks for."""
    engine.failures[b"image"] = errors.Unauthenticated("no token")
    assert client.post("/classify", content=b"image").headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/nowhere", "/docs/secret.js", "/problems/none-such", "/classify/deeper"])
def test_an_unknown_path_is_a_problem(client, path) -> None:
    """404 of the framework looks like every other error."""
    response = client.get(path)
    assert (response.status_code, response.headers["content-type"]) == (404, PROBLEM)
    assert response.json()["type"] == "about:blank"
    assert "/docs" in response.json()["detail"]


def test_a_wrong_method_is_a_problem_that_names_the_right_one(client) -> None:
    """405 of the framework keeps its Allow header and says the same in its detail."""
    response = client.get("/classify")
    assert (response.status_code, response.headers["content-type"]) == (405, PROBLEM)
    assert response.headers["allow"] == "POST"
    assert "use POST" in response.json()["detail"]


def test_the_frameworks_own_validation_is_a_problem(app, client) -> None:
    """A route that lets the framework validate answers 422 in the same form."""

    @app.get("/squares/{number}")
    def square(number: int) -> int:
        return number * number

    response = client.get("/squares/many")
    assert (response.status_code, response.headers["content-type"]) == (422, PROBLEM)
    assert response.json()["type"] == "/problems/invalid-argument"
    assert "path.number" in response.json()["detail"]


@pytest.mark.parametrize("files", [None, [("image", b"bug"), ("image", b"bug")]], ids=["one", "several"])
def test_a_bug_is_an_internal_error_that_tells_nothing(client, engine, caplog, files) -> None:
    """An unexpected exception is logged with its traceback and answered without a word of it."""
    engine.failures[b"bug"] = ZeroDivisionError("secret of the house")
    body = {"content": b"bug"} if files is None else {"files": files}
    response = client.post("/classify", **body)
    assert (response.status_code, response.headers["content-type"]) == (500, PROBLEM)
    assert response.json()["type"] == "/problems/internal-error"
    assert "secret" not in response.text
    assert "ZeroDivision" not in response.text
    assert response.headers["x-request-id"] in response.json()["instance"]
    assert "secret of the house" in caplog.text
