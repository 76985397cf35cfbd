"""TLS of every port: one certificate for all, read and checked once at start.

It makes no key and no certificate, and reads the files of no running server again.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path


class TlsError(Exception):
    """The files are no certificate and key. The message names the file, the flag, and what is wrong."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate chain, its key, and who may call (None: anybody may)."""

    cert: Path
    key: Path
    client_ca: Path | None

    def check(self) -> None:
        """Refuse what neither server could use: one of them would only say so in its log, when a caller comes.

        Raises:
            TlsError: a file that cannot be read, is no PEM, or a key of another certificate.
        """
        files = {"--tls-cert": self.cert, "--tls-key": self.key, "--tls-client-ca": self.client_ca}
        for flag, path in files.items():
            if path is not None:
                _check_readable(flag, path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise TlsError(
                f"--tls-cert {self.cert} and --tls-key {self.key} cannot be used ({_reason(error)}); "
                "give a certificate chain and its own key, without a passphrase, as PEM files"
            ) from error
        if self.client_ca is None:
            return
        try:
            context.load_verify_locations(self.client_ca)
        except ssl.SSLError as error:
            raise TlsError(
                f"--tls-client-ca {self.client_ca} cannot be used ({_reason(error)}); "
                "give the certificates of the authorities that vouch for clients, as a PEM file"
            ) from error


def _check_readable(flag: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise TlsError(f"{flag} {path} cannot be read ({error.strerror}); give a PEM file") from error


def _no_password() -> str:
    """Otherwise OpenSSL would ask for one on the terminal, and a server wait for somebody to type it."""
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    if not isinstance(error, ssl.SSLError):
        return str(error)
    # OpenSSL names what it found, but has no name for a file without any PEM of the wanted kind.
    return (error.reason or "one holds no PEM of its kind").replace("_", " ").lower()
