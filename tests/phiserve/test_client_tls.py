"""TLS and mTLS: whom a client trusts, who it says it is, and what happens when either does not fit."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phiserve import Client, ConnectionFailed, InvalidUrl
from phiserve.cli import app as phiserve
from service.tls import TlsFiles
from tests.fakes.engine import ScriptedEngine
from tests.fakes.grpc_classifier import grpc_classifier
from tests.fakes.pki import Pki, make_pki


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


@contextmanager
def over_http(pki: Pki, serve, *, asks: bool) -> Iterator[str]:
    tls = {"ssl_certfile": str(pki.cert), "ssl_keyfile": str(pki.key)}
    if asks:
        tls |= {"ssl_ca_certs": str(pki.ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    with serve(ScriptedEngine(), **tls) as url:
        yield url.replace("http://", "https://")


@contextmanager
def over_grpc(pki: Pki, *, asks: bool) -> Iterator[str]:
    with grpc_classifier(ScriptedEngine(), tls=TlsFiles(pki.cert, pki.key, pki.ca if asks else None)) as server:
        yield server.url


@pytest.fixture(scope="module", params=["https", "https asking", "grpcs", "grpcs asking"])
def secured(request, pki, serve) -> Iterator[tuple[str, bool]]:
    """The URL of a server with a certificate, and whether it wants one of its clients."""
    asks = request.param.endswith("asking")
    opened = over_grpc(pki, asks=asks) if request.param.startswith("grpcs") else over_http(pki, serve, asks=asks)
    with opened as url:
        yield url, asks


def identity(pki: Pki, *, is_given: bool) -> dict[str, Path]:
    return {"client_cert": pki.client_cert, "client_key": pki.client_key} if is_given else {}


def test_a_trusted_server_is_spoken_to(secured, pki, connect) -> None:
    """With its authority given, and with who the client is where the server asks."""
    url, asks = secured
    client = connect(url, ca_cert=pki.ca, **identity(pki, is_given=asks))
    client.wait_until_ready(30)
    assert client.classify(b"cat").best.index == 281


def test_an_unknown_authority_is_not_trusted_and_not_tried_again(secured, pki, connect) -> None:
    """The error says so, and says that another attempt will not help."""
    url, asks = secured
    with pytest.raises(ConnectionFailed, match=r"(?i)certificate") as raised:
        connect(url, **identity(pki, is_given=asks)).wait_until_ready(30)
    assert not raised.value.is_transient


def test_a_server_that_asks_who_is_there_is_not_reached_without_an_answer(secured, pki, connect) -> None:
    """A client without a certificate is kept out by mTLS; plain TLS does not ask for one."""
    url, asks = secured
    client = connect(url, ca_cert=pki.ca)
    if asks:
        with pytest.raises(ConnectionFailed):
            client.classify(b"cat")
    else:
        assert client.classify(b"cat").best.index == 281


def test_the_command_takes_the_same_files(secured, pki) -> None:
    """`--ca-cert`, `--client-cert` and `--client-key` do for the command what the arguments do for the client."""
    url, asks = secured
    files = {"ca_cert": pki.ca} | identity(pki, is_given=asks)
    flags = [part for name, path in files.items() for part in ("--" + name.replace("_", "-"), str(path))]
    result = CliRunner().invoke(phiserve, ["classify", "-", "--url", url, *flags], input=b"cat")
    assert result.exit_code == 0, result.output
    assert "class 281" in result.stdout


def test_a_certificate_without_its_key_is_refused(pki) -> None:
    """At once, naming both."""
    with pytest.raises(ValueError, match="client_cert and client_key"):
        Client("https://127.0.0.1", client_cert=pki.client_cert)


def test_files_that_hold_no_certificate_are_refused(pki, connect, tmp_path) -> None:
    """Before anything is connected: missing ones, and ones with something else in them."""
    (tmp_path / "empty.pem").write_text("nothing\n")
    for url in ("https://127.0.0.1", "grpcs://127.0.0.1"):
        for path in (tmp_path / "none.pem", tmp_path / "empty.pem"):
            with pytest.raises(OSError):  # noqa: PT011 - the message is the operating system's or OpenSSL's
                connect(url, ca_cert=path)


def test_certificates_without_tls_are_refused(pki, connect) -> None:
    """A URL that would send everything in the clear does not take the files silently."""
    for scheme in ("http", "grpc"):
        with pytest.raises(InvalidUrl, match=f"{scheme}s://"):
            connect(f"{scheme}://127.0.0.1", ca_cert=pki.ca)
