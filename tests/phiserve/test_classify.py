"""`phiserve classify` over the real REST front end: what is sent, what is shown, and the exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from fastapi import FastAPI, Response
from typer.testing import CliRunner, Result

from phiserve.cli import app as phiserve
from service.core.request import OnMiss
from service.errors import DeadlineExceeded, InvalidImage
from tests.fakes.engine import classification
from tests.fakes.http import running_server
from tests.fakes.menus import MS


def run(*arguments: object, url: str, stdin: bytes | None = None, **environment: str) -> Result:
    environment = {"COLUMNS": "200", "PHISERVE_URL": url} | environment
    return CliRunner().invoke(phiserve, ["classify", *map(str, arguments)], input=stdin, env=environment)


def rows(result: Result) -> list[list[str]]:
    """The cells of the table, without its head."""
    lines = [line for line in result.stdout.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


@pytest.fixture
def url(engine, http_url) -> str:
    """A server over the scripted engine: the command does not know the wires apart."""
    return http_url


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
        "--target-ms",
        12.5,
        "--priority",
        4,
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
    assert (asked.policy.target_ns, asked.policy.priority) == (12_500_000, 4)
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


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}", "http://[bad", "ftp://127.0.0.1", "127.0.0.1:{port}", "grpc://127.0.0.1:{port}"]
)
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


def images_of(result: Result) -> list[str]:
    """The images of JSON lines, by file name."""
    return [Path(json.loads(line)["image"]).name for line in result.stdout.splitlines()]


def test_a_folder_stands_for_its_images(engine, url, tmp_path) -> None:
    """Every image in it and below, sorted, whatever the case of its suffix; other and hidden files are left out."""
    (tmp_path / "deeper").mkdir()
    (tmp_path / ".thumbnails").mkdir()
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.jpg", ".thumbnails/t.jpg", "deeper/c.webp"):
        (tmp_path / name).write_bytes(b"cat")
    result = run(tmp_path, "--json", url=url)
    assert result.exit_code == 0
    assert images_of(result) == ["a.png", "b.JPG", "c.webp"]


def test_a_glob_is_expanded_where_no_shell_did(url, picture, tmp_path) -> None:
    """Files that match, sorted, whatever their suffix."""
    picture(b"cat", "2.jpg"), picture(b"cat", "1.jpg"), picture(b"cat", "3.raw")
    assert images_of(run(tmp_path / "[0-9].*", "--json", url=url)) == ["1.jpg", "2.jpg", "3.raw"]
    assert images_of(run(tmp_path / "**" / "*.jpg", "--json", url=url)) == ["1.jpg", "2.jpg"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(url, picture) -> None:
    """Names with brackets are common, and the file is there."""
    picture(b"cat", "photo1.jpg")
    assert images_of(run(picture(b"cat", "photo[1].jpg"), "--json", url=url)) == ["photo[1].jpg"]


def test_standard_input_is_an_image(engine, url) -> None:
    """`-` sends what is piped in."""
    result = run("-", "--json", url=url, stdin=b"piped")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["image"] == "-"
    assert [call.image for call in engine.calls] == [b"piped"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["-", "-"], "once"),
        (["{folder}"], "no image in the folder"),
        (["{folder}/*.jpg"], "no file matches"),
        (["-", "--budget-ms", "0"], "budget_ms"),
        (["-", "--client-cert", "{folder}/none.pem"], "client_key"),
        (["-", "--url", "https://127.0.0.1", "--ca-cert", "{folder}/none.pem"], "certificates"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_asked_is_one_line(engine, url, tmp_path, arguments, hint) -> None:
    """Exit code 2, nothing sent, and one line that says what is wrong."""
    result = run(*(argument.format(folder=tmp_path) for argument in arguments), url=url, stdin=b"cat")
    assert result.exit_code == 2
    assert engine.calls == []
    assert result.stderr.count("\n") == 1
    assert hint in result.stderr


def test_a_file_that_went_away_is_shown_in_its_place(engine, url, picture, monkeypatch) -> None:
    """What can no longer be read when its turn comes is one failed image, and the others are answered."""
    gone, kept = picture(b"gone", "gone.jpg"), picture(b"cat", "kept.jpg")
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    gone.unlink()
    result = run(gone, kept, "--json", url=url)
    assert result.exit_code == 1
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["status"], second["status"]) == (None, 200)
    assert "gone.jpg" in first["detail"]


def test_order_is_kept_whatever_the_concurrency(engine, url, picture) -> None:
    """With many in work at once, lines still come in the order of the arguments."""
    paths = [picture(b"%d" % number, f"{number:02}.jpg") for number in range(30)]
    result = run(*paths, "--json", "--concurrency", 8, url=url)
    assert result.exit_code == 0
    assert images_of(result) == [path.name for path in paths]
    assert len(engine.calls) == 30


@pytest.mark.parametrize("content", [b"cat", b"broken"])
def test_json_is_the_same_over_both_wires(engine, http_url, grpc_url, picture, content) -> None:
    """An answer has the same line over HTTP and over gRPC, to the microsecond; so has a failure, its id aside."""
    engine.answers[b"cat"] = classification(top_k=3, degraded_from="large")
    engine.failures[b"broken"] = DeadlineExceeded("too tight", smallest_feasible_budget_ns=12 * MS)
    over_http, over_grpc = (run(picture(content), "--json", "--budget-ms", 50, url=one) for one in (http_url, grpc_url))
    assert over_http.exit_code == over_grpc.exit_code == (0 if content == b"cat" else 1)
    first, second = (
        json.loads(result.stdout, parse_float=lambda text: round(float(text), 3)) for result in (over_http, over_grpc)
    )
    first.pop("instance", None), second.pop("instance", None)
    assert first == second


def test_no_bar_is_drawn_where_nobody_looks(url, picture) -> None:
    """Standard error stays empty when it is no terminal."""
    result = run(picture(b"cat", "a.jpg"), picture(b"cat", "b.jpg"), url=url)
    assert result.exit_code == 0
    assert result.stderr == ""


def drawn_on(controller: int) -> bytes:
    """All that is written to a terminal, until nobody has it open any more."""
    seen = b""
    with os.fdopen(controller, "rb", buffering=0) as drawn, suppress(OSError):  # which is how it says so
        while some := drawn.read(65536):
            seen += some
    return seen


def test_a_bar_is_drawn_on_a_terminal(url, picture) -> None:
    """Several images are counted on standard error, and the table on standard output holds no trace of it."""
    controller, terminal = os.openpty()
    command = [
        Path(sys.executable).with_name("phiserve"),
        "classify",
        picture(b"cat", "a.jpg"),
        picture(b"cat", "b.jpg"),
    ]
    environment = os.environ | {"PHISERVE_URL": url, "TERM": "xterm", "COLUMNS": "100"}
    with ThreadPoolExecutor(1) as pool:
        # Read all the while: a terminal holds a few kilobytes, and who draws more would wait to have them read.
        drawing = pool.submit(drawn_on, controller)
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, env=environment, check=False)
        os.close(terminal)
        seen = drawing.result(30)
    assert ended.returncode == 0
    assert b"classifying" in seen
    assert b"2/2" in seen
    assert b"classifying" not in ended.stdout
    assert ended.stdout.count(b".jpg") == 2
