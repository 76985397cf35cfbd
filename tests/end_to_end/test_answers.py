"""A running server names what real photographs show, by every way of asking."""

from __future__ import annotations

import io
import re

import httpx
import pytest
from PIL import Image

from tests.end_to_end.conftest import LITE, PHOTOGRAPHS

# Class indices as tests/photographs/README.md has them.
SHOWS = {"espresso": {967}, "tripod": {872}, "tabby_cat": set(range(281, 286))}
AMPLE = {"budget_ms": 30_000}


@pytest.mark.parametrize("variant", [None, *LITE])
@pytest.mark.parametrize("name", SHOWS)
def test_real_photographs_are_recognised(client, name, variant) -> None:
    """The most probable class is what the picture shows, whichever variant answers: the one asked for, or any."""
    query = AMPLE if variant is None else AMPLE | {"variant": variant}
    response = client.post("/classify", params=query, content=(PHOTOGRAPHS / f"{name}.jpg").read_bytes())
    assert response.status_code == 200, response.text
    answer = response.json()
    best = answer["predictions"][0]
    assert best["index"] in SHOWS[name]
    assert best["wnid"].startswith("n")
    assert answer["variant"]["name"] in (LITE if variant is None else {variant})  # a busy machine is load, too
    assert answer["variant"]["trained"] is True


def test_an_answer_is_complete_and_consistent(client, espresso) -> None:
    """Probabilities fall, stages fit into the total, and `Server-Timing` repeats what the body says."""
    response = client.post("/classify", params=AMPLE | {"top_k": 7}, content=espresso)
    answer = response.json()
    probabilities = [prediction["probability"] for prediction in answer["predictions"]]
    assert len(probabilities) == 7
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1.0001
    timings = answer["timings_ms"]
    assert set(timings) == {"decode", "queue", "preprocess", "inference", "total"}
    assert all(value >= 0 for value in timings.values())
    assert sum(timings.values()) - timings["total"] <= timings["total"]
    assert (answer["budget_ms"], answer["budget_met"], answer["batch_size"]) == (30_000, True, 1)
    shown = dict(re.findall(r"(\w+);dur=([0-9.]+)", response.headers["server-timing"]))
    assert {stage: float(duration) for stage, duration in shown.items()} == timings


def test_the_request_id_is_echoed(client, espresso) -> None:
    """The caller's id comes back on an answer and inside a problem."""
    headers = {"X-Request-ID": "end-to-end/1"}
    assert client.post("/classify", content=espresso, params=AMPLE, headers=headers).headers["x-request-id"] == (
        "end-to-end/1"
    )
    refused = client.post("/classify", content=b"no picture", headers=headers)
    assert refused.headers["x-request-id"] == "end-to-end/1"
    assert refused.json()["instance"].endswith("end-to-end/1")


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF"])
def test_other_formats_are_recognised_too(client, form) -> None:
    """The same picture in another format is the same espresso."""
    written = io.BytesIO()
    with Image.open(PHOTOGRAPHS / "espresso.jpg") as image:
        image.save(written, form)
    response = client.post("/classify", params=AMPLE, content=written.getvalue())
    assert response.json()["predictions"][0]["index"] == 967


def test_several_images_are_independent(client, espresso) -> None:
    """One request with three parts, the middle one broken, gets two answers and one problem in their order."""
    files = [
        ("image", ("espresso.jpg", espresso, "image/jpeg")),
        ("image", ("broken.jpg", espresso[:40], "image/jpeg")),
        ("image", ("tripod.jpg", (PHOTOGRAPHS / "tripod.jpg").read_bytes(), "image/jpeg")),
    ]
    response = client.post("/classify", params=AMPLE, files=files)
    assert response.status_code == 200, response.text
    first, second, third = response.json()["results"]
    assert first["predictions"][0]["index"] == 967
    assert (second["error"]["status"], second["error"]["type"]) == (400, "/problems/invalid-image")
    assert third["predictions"][0]["index"] == 872


def test_one_part_is_answered_like_a_body(client, espresso) -> None:
    """A multipart request with a single image gets the plain answer."""
    response = client.post("/classify", params=AMPLE, files={"image": ("espresso.jpg", espresso, "image/jpeg")})
    assert response.json()["predictions"][0]["index"] == 967


def test_a_floor_for_accuracy_is_kept(client, espresso) -> None:
    """`min_accuracy` excludes what is below it: at the best variant's figure only that one answers."""
    rows = client.get("/variants").json()["variants"]
    for row in rows:
        floor = row["accuracy"]["top1"]
        response = client.post("/classify", params=AMPLE | {"min_accuracy": floor}, content=espresso)
        assert response.json()["variant"]["top1"] >= floor
    beyond = client.post("/classify", params=AMPLE | {"min_accuracy": 99.9}, content=espresso)
    assert beyond.status_code == 422
    assert str(rows[0]["accuracy"]["top1"]) in beyond.json()["detail"]


REFUSALS = {
    "a malformed budget": ({"params": {"budget_ms": "soon"}}, 422, "budget_ms"),
    "an unknown parameter": ({"params": {"budget": "20"}}, 422, "budget_ms"),
    "an unknown variant": ({"params": {"variant": "b9"}}, 404, "lite0"),
    "bytes that are no picture": ({"content": b"no picture"}, 400, "JPEG"),
    "a picture that is cut off": ({"content": (PHOTOGRAPHS / "espresso.jpg").read_bytes()[:5000]}, 400, "whole file"),
    "an empty body": ({"content": b""}, 400, ""),
    "too many bytes": ({"content": b"\xff\xd8\xff" + bytes(1_000_001)}, 413, "1000000"),
    "a type that is not served": ({"headers": {"Content-Type": "text/plain"}}, 415, "image/"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_faulty_requests_are_refused_with_what_would_have_worked(client, espresso, name) -> None:
    """Each fault has its status, a problem+json body, and a detail that says what to change."""
    arguments, status, hint = REFUSALS[name]
    response = client.post("/classify", **({"content": espresso} | arguments))
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == status
    assert hint in response.json()["detail"]


def test_too_many_pixels_are_refused_unread(client) -> None:
    """A small file that would unpack to more pixels than the server takes is refused by its header."""
    written = io.BytesIO()
    Image.new("L", (3000, 3000)).save(written, "PNG")
    response = client.post("/classify", content=written.getvalue())
    assert (response.status_code, response.json()["type"]) == (413, "/problems/image-too-large")
    assert "4000000" in re.sub(r"[,_ ]", "", response.json()["detail"])


def test_other_methods_and_paths_are_problems_too(client) -> None:
    """What is not served is answered in the same form."""
    for response in (client.get("/classify"), client.get("/nowhere")):
        assert isinstance(response, httpx.Response)
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["detail"]
