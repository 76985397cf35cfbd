"""What operators look at, on a running server: probes, the menu, metrics that count what was sent, the reference."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from importlib.metadata import version
from urllib.parse import urljoin, urlsplit

import httpx
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.conftest import LITE
from tests.end_to_end.phiserve_process import client_of

WAIT_S = 30
TRIES = 20


class Metrics:
    """One reading of `/metrics`."""

    def __init__(self, client: httpx.Client) -> None:
        response = client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=")
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self._samples.get((name, frozenset(labels.items())), 0.0)

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series that have these labels, whatever else they have."""
        wanted = set(labels.items())
        return sum(value for (found, having), value in self._samples.items() if found == name and wanted <= having)


def read_until(client: httpx.Client, wanted: Callable[[Metrics], bool]) -> Metrics:
    """Read until it is as `wanted`: what a request leaves behind is counted a moment after its answer."""
    ends_s = time.monotonic() + WAIT_S
    while not wanted(metrics := Metrics(client)):
        assert time.monotonic() < ends_s, "the metrics never said so"
    return metrics


def test_probes_say_alive_and_ready(client) -> None:
    """A server that announced itself is alive and takes requests."""
    for path, status in (("/livez", "alive"), ("/readyz", "ready")):
        response = client.get(path)
        assert (response.status_code, response.json()) == (200, {"status": status})


def test_the_menu_names_sources_and_licences(client) -> None:
    """Every variant is there, most accurate first, with measured latencies and where its weights come from."""
    rows = client.get("/variants").json()["variants"]
    assert [row["name"] for row in rows] == ["lite2", "lite1", "lite0"]
    for row in rows:
        assert row["provenance"]["licence"] == "Apache-2.0"
        assert row["provenance"]["url"].startswith("https://")
        assert row["accuracy"]["source"] == "published"
        assert row["routable"] is True
        assert {point["batch_size"] for point in row["latencies"]} == {1}
        assert all(point["latency_ms"] > 0 for point in row["latencies"])


def test_metrics_count_what_was_sent(client, espresso) -> None:
    """Each way a request can end moves its own counters by as many as were sent, and nothing else."""
    before = read_until(client, lambda metrics: metrics.value("phiserve_admitted") == 0)
    for name in LITE:
        for _ in range(2):
            assert client.post("/classify", params={"variant": name}, content=espresso).status_code == 200
    client.post("/classify", params={"budget_ms": 0.5, "on_miss": "late"}, content=espresso)
    for _ in range(3):
        client.post("/classify", params={"budget_ms": 0.5}, content=espresso)
    client.post("/classify", content=b"no picture")
    client.post("/classify", params={"variant": "b9"}, content=espresso)
    after = read_until(client, lambda metrics: metrics.value("phiserve_admitted") == 0)

    def grew(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    assert grew("phiserve_requests_total", outcome="answered") == 7
    assert all(grew("phiserve_requests_total", outcome="answered", variant=name) >= 2 for name in LITE)
    assert grew("phiserve_requests_total", outcome="refused") == 5
    assert grew("phiserve_requests_total") == 12
    assert grew("phiserve_budget_total", result="missed") >= 1
    assert grew("phiserve_budget_total", result="refused") == 3
    assert grew("phiserve_errors_total", reason="deadline_exceeded") == 3
    assert grew("phiserve_errors_total", reason="invalid_image") == 1
    assert grew("phiserve_errors_total", reason="unknown_variant") == 1
    assert grew("phiserve_runs_total", result="finished") == 7
    assert grew("phiserve_runs_total", result="failed") == 0
    assert grew("phiserve_request_duration_seconds_count", outcome="answered") == 7
    assert grew("phiserve_stage_duration_seconds_count", stage="inference") == 7
    assert after.total("phiserve_build_info", version=version("phiserve")) == 1
    assert after.value("phiserve_queue_depth") == after.value("phiserve_in_flight") == 0


class Links(HTMLParser):
    """Every address that a page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in {"src", "href", "action"} and value]


def test_the_reference_needs_no_other_host(client) -> None:
    """`/docs` refers only to this server, everything it refers to is there, and so is the API's description."""
    page = client.get("/", follow_redirects=True)
    assert page.url.path == "/docs"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    links = [urljoin(str(page.url), link) for link in Links(page.text).found]
    assert any(link.endswith(".js") for link in links)
    for link in links:
        assert urlsplit(link).netloc == page.url.netloc.decode(), f"{link} is elsewhere"
        assert client.get(link).status_code == 200, link
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/classify", "/variants", "/livez", "/readyz", "/metrics"} <= paths.keys()


def large_picture() -> bytes:
    """Few bytes and many pixels: quick to send, and at work for a while."""
    written = io.BytesIO()
    Image.radial_gradient("L").resize((2000, 1500)).convert("RGB").save(written, "JPEG")
    return written.getvalue()


def test_a_caller_that_leaves_is_cancelled_and_its_neighbours_are_answered(server, client, espresso) -> None:
    """Requests of a connection that was closed are counted as cancelled, and those of others get their answers."""
    picture = large_picture()
    request = httpx.Request(
        "POST",
        f"{server.url}/classify?budget_ms=30000",
        files=[("image", (f"{index}.jpg", picture, "image/jpeg")) for index in range(12)],
    )
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    sent = f"POST {request.url.raw_path.decode()} HTTP/1.1\r\n{head}\r\n".encode() + request.read()

    def neighbour(_: int) -> int:
        with client_of(server) as other:
            return other.post("/classify", params={"budget_ms": 30_000}, content=espresso).status_code

    def leave() -> None:
        """Once the server has begun, with neighbours."""
        began = Metrics(client).total("phiserve_requests_total", outcome="answered")
        with (
            ThreadPoolExecutor(4) as neighbours,
            socket.create_connection((request.url.host, request.url.port), WAIT_S) as leaving,
        ):
            leaving.sendall(sent)
            read_until(
                client,
                lambda metrics: (
                    metrics.value("phiserve_admitted") > 0
                    or metrics.total("phiserve_requests_total", outcome="answered") > began
                ),
            )
            statuses = neighbours.map(neighbour, range(8))
            leaving.close()
            assert list(statuses) == [200] * 8

    for _ in range(TRIES):
        before = read_until(client, lambda metrics: metrics.value("phiserve_admitted") == 0)
        leave()
        after = read_until(client, lambda metrics: metrics.value("phiserve_admitted") == 0)
        ended = {
            outcome: after.total("phiserve_requests_total", outcome=outcome)
            - before.total("phiserve_requests_total", outcome=outcome)
            for outcome in ("answered", "cancelled", "refused", "failed")
        }
        assert ended["answered"] + ended["cancelled"] == 12 + 8, "each ended exactly once"
        assert ended["refused"] == ended["failed"] == 0
        if ended["cancelled"] >= 1:
            return
    raise AssertionError(f"{TRIES} times all was answered before the caller left")
