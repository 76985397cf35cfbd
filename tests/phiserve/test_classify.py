"""`phiserve classify` over the real REST front end: what is sent, what is shown, and the exit code."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI, Response
from typer.testing import CliRunner, Result

from phiserve.cli import app as phiserve
from service.core.request import OnMiss
from service.errors import DeadlineExceeded, InvalidImage
from service.frontends.rest_api import RestLimits, create_rest_api
from tests.fakes.engine import ScriptedEngine, classification
from tests.fakes.http import running_server
from tests.fakes.menus import MS


def run(*arguments: object, url: str, **environment: str) -> Result:
    environment = {"COLUMNS": "200", "PHISERVE_URL": url} | environment
    return CliRunner().invoke(phiserve, ["classify", *map(str, arguments)], env=environment)


def rows(result: Result) -> list[list[str]]:
    """The cells of the table, without its head."""
    lines = [line for line in result.stdout.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def url(engine) -> Iterator[str]:
    """A server over the scripted engine."""
    api = create_rest_api(engine, limits=RestLimits(), metrics_page=lambda: (b"", "text/plain"), version="1.2.3")
    with running_server(api) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def picture(tmp_path):
    """Writes a file that the scripted engine knows by its content."""

    def write(content: bytes, name: str = "photo.jpg") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@contextmanager
def stranger(content: bytes, status: int) -> Iterator[str]:
    """A server that is not phiserve: whatever it is asked, it answers the same."""
    app = FastAPI()
    app.post("/classify")(lambda: Response(content, status))
    with running_server(app) as port:
        yield f"http://127.0.0.1:{port}"


def answer_one_request(listener: socket.socket) -> threading.Thread:
    """Answer the first request and close everything, as a server that crashes does."""
    body = b'{"predictions": []}'

    def answer() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            while b"cat" not in connection.recv(65536):
                pass
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_each_class_has_a_row(engine, url, picture) -> None:
    """The best class comes with file, variant, time and whether the budget was met; the others under it."""
    engine.answers[b"cat"] = classification(top_k=2, name="lite2")
    result = run(picture(b"cat", "cat.jpg"), url=url)
    assert result.exit_code == 0
    assert rows(result) == [
        ["cat.jpg", "class 281", "0.750", "lite2", "9.0", "yes"],
        ["", "class 282", "0.375", "", "", ""],
    ]


def test_an_untrained_or_late_answer_is_marked(engine, url, picture) -> None:
    """A reader sees that the class means nothing and that the budget was missed."""
    engine.answers[b"cat"] = classification(name="b0", trained=False, top1=None, budget_met=False)
    ((_, _, _, variant, _, met),) = rows(run(picture(b"cat"), url=url))
    assert (variant, met) == ("b0 (untrained)", "no")


def test_every_option_is_sent(engine, url, picture) -> None:
    """What is asked on the command line is what the server gets; what is not asked is left to the server."""
    run(
        picture(b"cat"),
        "--budget-ms",
        25,
        "--variant",
        "b3",
        "--min-accuracy",
        80,
        "--on-miss",
        "late",
        "--top-k",
        7,
        url=url,
    )
    run(picture(b"cat"), url=url)
    asked, plain = (call.options for call in engine.calls)
    assert (asked.budget_ns, asked.top_k, asked.policy.variant) == (25 * MS, 7, "b3")
    assert (asked.policy.min_accuracy, asked.policy.on_miss) == (80, OnMiss.LATE)
    assert (plain.budget_ns, plain.top_k, plain.policy.variant, plain.policy.min_accuracy) == (None, 3, None, None)
    assert plain.policy.on_miss is OnMiss.REJECT


def test_json_is_one_object_a_line(engine, url, picture) -> None:
    """Each line has the file, the status and the server's answer as it came."""
    paths = [picture(b"one", "one.jpg"), picture(b"two", "two.jpg")]
    result = run(*paths, "--json", url=url)
    assert result.exit_code == 0
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["image"], second["image"]) == tuple(map(str, paths))
    assert first["status"] == 200
    assert first["predictions"][0]["index"] == 281
    assert first["variant"]["name"] == "small"


def test_a_refused_image_is_shown_in_its_place(engine, url, picture) -> None:
    """The server's sentence stands where the class would; the other images are answered; exit code 1."""
    engine.failures[b"broken"] = InvalidImage("cut off; send the [whole] file")
    result = run(picture(b"broken", "a.jpg"), picture(b"cat", "b.jpg"), "--top-k", 1, url=url)
    assert result.exit_code == 1
    first, second = rows(result)
    assert first == ["a.jpg", "cut off; send the [whole] file", "", "", "", ""]
    assert second[:2] == ["b.jpg", "class 281"]


def test_a_refusal_in_json_has_all_the_problem_says(engine, url, picture) -> None:
    """Scripts read the smallest feasible budget from the line and the failure from the exit code."""
    engine.failures[b"cat"] = DeadlineExceeded("too tight", smallest_feasible_budget_ns=12 * MS)
    result = run(picture(b"cat"), "--json", "--budget-ms", 1, url=url)
    assert result.exit_code == 1
    line = json.loads(result.stdout)
    assert (line["status"], line["detail"], line["smallest_feasible_budget_ms"]) == (504, "too tight", 12.0)


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"<html>welcome</html>", 200), (b'{"status": "ok"}', 200), (b"[]", 200), (b"bad gateway", 502), (b"{}", 404)],
)
def test_what_is_not_phiserve_is_shown_as_such(picture, content, status) -> None:
    """A proxy's page or another API is a failed image and no traceback, whatever its status."""
    with stranger(content, status) as url:
        result = run(picture(b"cat"), "--json", url=url)
    assert result.exit_code == 1
    line = json.loads(result.stdout)
    assert line["status"] == status
    assert f"HTTP {status}" in line["detail"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://[bad", "ftp://127.0.0.1", "127.0.0.1:{port}"])
def test_no_server_is_one_line(picture, url) -> None:
    """Nobody listening, and an address that is none, end with 2 and say how to start a server."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # taken and not listening
        url = url.format(port=taken.getsockname()[1])
        result = run(picture(b"cat"), url=url)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"phiserve: no answer from {url} (")
    assert "phiserve serve" in result.stderr


def test_answers_before_the_server_went_away_are_shown(engine, picture) -> None:
    """What was answered is not lost with what was not."""
    first, second = picture(b"cat", "first.jpg"), picture(b"cat", "second.jpg")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = answer_one_request(listener)
        result = run(first, second, "--json", url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        answering.join()
    assert result.exit_code == 2
    assert [json.loads(line)["image"] for line in result.stdout.splitlines()] == [str(first)]


def test_a_file_that_is_not_there_is_refused(url, tmp_path) -> None:
    """Before anything is sent the missing file is named."""
    result = run(tmp_path / "none.jpg", url=url, COLUMNS="300")
    assert result.exit_code == 2
    assert "none.jpg" in result.stderr
