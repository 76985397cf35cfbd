"""Who calls through proxies: by their word where they are trusted, and the same over both wires."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.frontends.callers import Callers, parse_networks
from service.frontends.grpc_peer import client_of

TRUSTED = "10.0.0.0/8,192.0.2.1,2001:db8::/32"
CALLERS = Callers(parse_networks(TRUSTED))


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("203.0.113.9", ["198.51.100.7"], "203.0.113.9"),
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", ["198.51.100.7"], "198.51.100.7"),
        ("10.1.2.3", ["1.1.1.1, 198.51.100.7, 10.9.9.9"], "198.51.100.7"),
        ("10.1.2.3", ["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
        ("10.1.2.3", ["10.4.4.4, 192.0.2.1"], "10.4.4.4"),
        ("192.0.2.1", ["198.51.100.7:4321"], "198.51.100.7"),
        ("2001:db8::5", ["[2001:470::1]:99"], "2001:470::1"),
        ("10.1.2.3", ["unknown"], "unknown"),
        ("unix:", ["198.51.100.7"], "unix:"),
    ],
)
def test_the_nearest_caller_that_is_no_proxy(peer, forwarded, caller) -> None:
    """Only a trusted peer is believed, and only up to the first address from the right that is none of the proxies."""
    assert CALLERS.of(peer, forwarded) == caller


def test_nobody_is_trusted_by_default() -> None:
    """Not even this machine: a header alone makes nobody somebody else."""
    assert Callers().of("127.0.0.1", ["198.51.100.7"]) == "127.0.0.1"


HOSTS = st.sampled_from(["10.0.0.1", "10.200.0.1", "192.0.2.1", "203.0.113.9", "198.51.100.7", "2001:db8::1", "::1"])


@given(HOSTS, st.lists(st.lists(HOSTS, min_size=1, max_size=3).map(", ".join), max_size=3))
def test_http_and_grpc_agree(peer, forwarded) -> None:
    """uvicorn, which reads the header for HTTP, sees the same caller."""
    seen = {}

    async def app(scope, receive, send) -> None:
        seen["client"] = scope["client"][0]

    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    scope = {"type": "http", "client": (peer, 1), "headers": headers, "scheme": "http"}
    asyncio.run(ProxyHeadersMiddleware(app, TRUSTED.split(","))(scope, None, None))
    assert seen["client"] == CALLERS.of(peer, forwarded)


class FakeContext:
    def __init__(self, peer: str, metadata) -> None:
        self._peer, self._metadata = peer, metadata

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self):
        return self._metadata


def test_a_call_s_metadata_says_who_calls() -> None:
    """The header is metadata of the call; a binary value under that name is nobody's address."""
    metadata = (("x-forwarded-for", "198.51.100.7"), ("x-forwarded-for", b"\x00"), ("other", "1.1.1.1"))
    assert client_of(FakeContext("ipv4:10.1.2.3:4321", metadata), CALLERS) == "198.51.100.7"
    assert client_of(FakeContext("ipv6:%5B2001:470::9%5D:1", metadata), CALLERS) == "2001:470::9"
    assert client_of(FakeContext("ipv4:10.1.2.3:4321", None), CALLERS) == "10.1.2.3"


def test_what_is_no_network_is_named() -> None:
    """The error names the part that is neither an address nor a network."""
    with pytest.raises(ValueError, match=r"10\.0\.0\.7/8 has host bits set"):
        parse_networks("192.0.2.1, 10.0.0.7/8")
    assert parse_networks(" ") == ()
