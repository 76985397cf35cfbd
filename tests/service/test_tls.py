"""TLS files are read at start, and what no server could use is refused with the flag to mend."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from service.tls import TlsError, TlsFiles
from tests.fakes.pki import Pki, make_pki


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


def test_a_certificate_and_its_key_are_fine(pki) -> None:
    """With or without an authority for clients."""
    TlsFiles(pki.cert, pki.key, None).check()
    TlsFiles(pki.cert, pki.key, pki.ca).check()


@pytest.mark.parametrize(
    ("changed", "flag", "reason"),
    [
        ({"cert": "nowhere.pem"}, "--tls-cert", "No such file"),
        ({"key": "nowhere.key"}, "--tls-key", "No such file"),
        ({"cert": "server.key"}, "--tls-cert", "PEM"),
        ({"key": "client.key"}, "--tls-key", "mismatch"),
        ({"client_ca": "nowhere.pem"}, "--tls-client-ca", "No such file"),
        ({"client_ca": "server.key"}, "--tls-client-ca", "PEM"),
    ],
)
def test_files_that_cannot_be_used_are_named(pki, changed, flag, reason) -> None:
    """A missing file, one that is something else, and a key of another certificate."""
    names = {"cert": "server.pem", "key": "server.key", "client_ca": "ca.pem"} | changed
    paths = {role: pki.folder / name for role, name in names.items()}
    with pytest.raises(TlsError, match=reason) as refused:
        TlsFiles(**paths).check()
    (role,) = changed
    assert f"{flag} {paths[role]}" in str(refused.value)
    assert "PEM file" in str(refused.value)


def test_an_encrypted_key_is_refused_and_nobody_is_asked(pki, tmp_path) -> None:
    """A server has no terminal to type a passphrase at."""
    key = serialization.load_pem_private_key(pki.key.read_bytes(), None)
    locked = Path(tmp_path / "locked.key")
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(TlsError, match=r"the key is encrypted.*without a passphrase"):
        TlsFiles(pki.cert, locked, None).check()
