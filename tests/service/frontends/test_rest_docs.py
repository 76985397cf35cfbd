"""The reference page needs no other host, and the description it shows is true of what is answered."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest
from pydantic import TypeAdapter

from service.errors import DeadlineExceeded, InvalidImage, Overloaded
from service.frontends import rest_schemas
from tests.fakes.http import InProcessClient

HOST = "http://phiserve/docs"


class References(HTMLParser):
    """Collects every URL that a page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.inline_scripts = 0
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        named = dict(attrs)
        self.urls += [named[name] for name in ("href", "src", "data-openapi", "action") if named.get(name)]
        self.inline_scripts += tag == "script" and "src" not in named


@pytest.fixture
def page(client: InProcessClient) -> str:
    return client.get("/docs").text


def test_the_page_refers_only_to_this_server_and_all_of_it_is_there(client, page) -> None:
    """Each URL on the page is of this host and answers 200 with content."""
    urls = [urljoin(HOST, url) for url in References(page).urls]
    assert len(urls) >= 5
    for url in urls:
        assert urlsplit(url).netloc == "phiserve"
        response = client.get(urlsplit(url).path)
        assert response.status_code == 200
        assert len(response.content) > 100


def test_the_stylesheet_loads_nothing_from_elsewhere(client) -> None:
    """Swagger UI's stylesheet embeds its images instead of fetching them."""
    targets = re.findall(r"url\(\s*['\"]?([^'\")]+)", client.get("/docs/swagger-ui.css").text)
    assert all(target.startswith(("data:", "#")) for target in targets)


def test_the_browser_is_told_to_enforce_it(client, page) -> None:
    """The page's policy allows scripts, styles and connections from this server alone, and it has no inline script."""
    policy = client.get("/docs").headers["content-security-policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["connect-src"] == "'self'"
    assert "http" not in policy
    assert References(page).inline_scripts == 0


def test_assets_have_the_types_browsers_insist_on(client) -> None:
    """With nosniff a script or stylesheet of another type would not be used."""
    expected = {"swagger-ui-bundle.js": "text/javascript", "docs.js": "text/javascript", "swagger-ui.css": "text/css"}
    for name, media_type in expected.items():
        response = client.get(f"/docs/{name}")
        assert response.headers["content-type"].startswith(media_type)
        assert response.headers["x-content-type-options"] == "nosniff"


def test_the_root_leads_to_the_reference(client) -> None:
    """Whoever opens the bare address in a browser arrives at the documentation, also behind a path prefix."""
    response = client.get("/")
    assert (response.status_code, response.headers["location"]) == (307, "docs")


def test_every_reference_inside_the_description_resolves(client) -> None:
    """Each $ref of openapi.json names a schema that the document holds."""
    document = client.get("/openapi.json").json()
    found: list[str] = []

    def walk(node) -> None:
        if isinstance(node, dict):
            found.extend([node["$ref"]] if "$ref" in node else [])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == "1.2.3"
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_the_description_names_what_the_server_takes(client) -> None:
    """Parameters, media types, the bound on parts and the error statuses of /classify are all described."""
    classify = client.get("/openapi.json").json()["paths"]["/classify"]["post"]
    assert [parameter["name"] for parameter in classify["parameters"]] == [
        "budget_ms",
        "top_k",
        "variant",
        "min_accuracy",
        "target_ms",
        "priority",
        "on_miss",
    ]
    content = classify["requestBody"]["content"]
    assert set(content) == {"image/*", "application/octet-stream", "multipart/form-data"}
    assert content["multipart/form-data"]["schema"]["properties"]["image"]["maxItems"] == 4
    assert set(classify["responses"]) == {"200", "400", "404", "413", "415", "422", "429", "500", "503", "504"}
    assert list(classify["responses"]["504"]["content"]) == ["application/problem+json"]


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/variants", rest_schemas.Menu),
        ("/livez", rest_schemas.Liveness),
        ("/readyz", rest_schemas.ReadinessAnswer),
        ("/problems/overloaded", rest_schemas.ProblemKind),
        ("/nowhere", rest_schemas.Problem),
    ],
)
def test_what_is_answered_has_the_described_shape(client, path, shape) -> None:
    """Answers that bypass validation still have exactly the fields and types of their published schemas."""
    TypeAdapter(shape).validate_json(client.get(path).content, strict=True)


def test_classifications_have_the_described_shape(client, engine) -> None:
    """One answer, several results and each kind of problem fit the schemas of /classify strictly."""
    engine.failures[b"broken"] = InvalidImage("cut off")
    engine.failures[b"full"] = Overloaded("full", retry_after_ns=1)
    engine.failures[b"late"] = DeadlineExceeded("late", smallest_feasible_budget_ns=1)
    images = [("image", image) for image in (b"a", b"broken", b"full", b"late")]
    answer = client.post("/classify", content=b"a").content
    answers = client.post("/classify", files=images).content
    rest_schemas.Answer.model_validate_json(answer, strict=True)
    assert len(rest_schemas.Answers.model_validate_json(answers, strict=True).results) == 4
    for image in (b"broken", b"full", b"late"):
        rest_schemas.Problem.model_validate_json(client.post("/classify", content=image).content, strict=True)
