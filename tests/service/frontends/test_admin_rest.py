"""`POST /admin/reload`: served to whoever has the token, and the answer says what came of it."""

from __future__ import annotations

import pytest

from service.core.generation import Reloaded
from service.errors import StoreRefused
from service.frontends.admin_rest import TokenError, TokenFile, install_admin
from tests.fakes.http import InProcessClient

TOKEN = "0123456789abcdef"
PATH = "/admin/reload"


class Reloads:
    def __init__(self) -> None:
        self.calls = 0
        self.outcome: Reloaded | StoreRefused = Reloaded(
            version="abc123", changed=True, variants=("lite2", "lite0"), took_ns=1_234_567_890
        )

    async def __call__(self) -> Reloaded:
        self.calls += 1
        if isinstance(self.outcome, StoreRefused):
            raise self.outcome
        return self.outcome


@pytest.fixture
def token_file(tmp_path) -> TokenFile:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    return TokenFile(tmp_path / "token")


@pytest.fixture
def reloads() -> Reloads:
    return Reloads()


@pytest.fixture
def admin(app, token_file, reloads):
    install_admin(app, token_file, reloads)
    with InProcessClient(app) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_it_is_not_there_unless_installed(client) -> None:
    """A server without a token file has no such path, whatever is sent."""
    assert client.post(PATH, headers=bearer(TOKEN)).status_code == 404


def test_what_took_over_is_answered(admin, reloads) -> None:
    """Version, variants and the time it took, for who has the token."""
    response = admin.post(PATH, headers=bearer(TOKEN))
    assert response.status_code == 200
    assert response.json() == {"version": "abc123", "changed": True, "variants": ["lite2", "lite0"], "took_s": 1.235}
    assert reloads.calls == 1
    assert PATH in admin.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "0"),
        {"Authorization": TOKEN},
        {"Authorization": "Basic " + TOKEN},
    ],
)
def test_without_the_token_nothing_is_done(admin, reloads, headers) -> None:
    """Whoever calls, from wherever: a problem that says what to send, and no reload."""
    response = admin.post(PATH, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"
    assert reloads.calls == 0


def test_a_refused_store_is_a_problem_with_the_reason(admin, reloads) -> None:
    """409, since what is there conflicts with being served; the detail is the reason."""
    reloads.outcome = StoreRefused("/store/lite0 does not have the sha256 it was built with")
    response = admin.post(PATH, headers=bearer(TOKEN))
    assert response.status_code == 409
    assert response.json()["type"] == "/problems/store-refused"
    assert response.json()["detail"] == "/store/lite0 does not have the sha256 it was built with"


def test_only_post_reloads(admin, reloads) -> None:
    """No link and no picture's address can do it."""
    assert admin.get(PATH, headers=bearer(TOKEN)).status_code == 405
    assert reloads.calls == 0


def test_a_token_can_be_replaced_while_serving(admin, token_file) -> None:
    """The file is read for each call; while it holds nothing of use, nobody is let in."""
    token_file.path.write_text("another-token-of-mine")
    assert admin.post(PATH, headers=bearer(TOKEN)).status_code == 401
    assert admin.post(PATH, headers=bearer("another-token-of-mine")).status_code == 200
    token_file.path.unlink()
    assert admin.post(PATH, headers=bearer("another-token-of-mine")).status_code == 401


@pytest.mark.parametrize("content", [b"", b"short", b"0123456789 abcdef", "0123456789abcdeü".encode(), b"\xff" * 20])
def test_what_is_no_secret_is_refused_with_how_to_make_one(tmp_path, content) -> None:
    """Empty files, short words and what no header can carry."""
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(TokenError, match="openssl rand -hex 32"):
        TokenFile(tmp_path / "token").read()
