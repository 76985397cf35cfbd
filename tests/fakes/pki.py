"""An authority made for a test, and PEM files of a server and of a client that it vouches for."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Pki:
    folder: Path
    ca: Path
    cert: Path
    key: Path
    client_cert: Path
    client_key: Path

    def trusting(self, *, shows: bool = False) -> ssl.SSLContext:
        """What a client needs that trusts the server and, if it is to, `shows` its own certificate."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if shows:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context


def make_pki(folder: Path) -> Pki:
    """Writes the files to `folder`; the server's names are localhost and 127.0.0.1."""
    authority = trustme.CA()
    server, client = authority.issue_cert("localhost", "127.0.0.1"), authority.issue_cert("somebody@example.org")
    names = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
    pki = Pki(folder, *(folder / name for name in names))
    authority.cert_pem.write_to_path(pki.ca)
    for leaf, cert, key in ((server, pki.cert, pki.key), (client, pki.client_cert, pki.client_key)):
        cert.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(key)
    return pki
