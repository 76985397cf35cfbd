"""Where a server is and how to trust it: a URL and certificates, checked before anything is connected."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from phiserve.errors import InvalidUrl

DEFAULT_URL = "http://127.0.0.1:8000"
GRPC_PORT = 8001
_WHAT_WORKS = f"give http://, https://, grpc:// or grpcs:// with a host, such as {DEFAULT_URL} or grpc://127.0.0.1:8001"


@dataclass(frozen=True, slots=True)
class Address:
    """A server. `url` is as it was given; `authority` is host:port for gRPC, with brackets around IPv6."""

    url: str
    is_grpc: bool
    is_secure: bool
    authority: str


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. `ca_cert`: who may have signed the server's certificate, instead of the well-known authorities.

    `client_cert` and `client_key`: who the client is (mTLS), for a server that asks.

    Raises:
        ValueError: one of `client_cert` and `client_key` without the other.
    """

    ca_cert: str | Path | None = None
    client_cert: str | Path | None = None
    client_key: str | Path | None = None

    def __post_init__(self) -> None:
        """See Raises."""
        if (self.client_cert is None) != (self.client_key is None):
            raise ValueError("client_cert and client_key go together; give both, or neither")

    @property
    def is_empty(self) -> bool:
        """Whether nothing but the defaults was asked for."""
        return self.ca_cert is None and self.client_cert is None

    def ssl_context(self) -> ssl.SSLContext:
        """For a client over HTTP. Without `ca_cert` whom the system trusts is trusted.

        Raises:
            OSError: a file cannot be read, or (`ssl.SSLError`) holds no certificate or key.
        """
        context = ssl.create_default_context(cafile=None if self.ca_cert is None else str(self.ca_cert))
        if self.client_cert is not None and self.client_key is not None:
            context.load_cert_chain(str(self.client_cert), str(self.client_key))
        return context


def parse_address(url: str, tls: TlsFiles) -> Address:
    """`url` taken apart. `grpc://` and `grpcs://` without a port mean 8001.

    Raises:
        InvalidUrl: another scheme, no host, a port that is none, credentials, a query, a path where gRPC has none, or
            certificates for a connection without TLS.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidUrl(f"{error}; {_WHAT_WORKS}") from error
    scheme = parts.scheme.lower()
    is_printed = url.isprintable() and not any(character.isspace() for character in url)
    if scheme not in ("http", "https", "grpc", "grpcs") or not host or not is_printed:
        raise InvalidUrl(f"not an address of a server; {_WHAT_WORKS}")
    if parts.username is not None or parts.query or parts.fragment:
        raise InvalidUrl(f"an address has neither credentials nor a query; {_WHAT_WORKS}")
    is_grpc, is_secure = scheme.startswith("grpc"), scheme.endswith("s")
    if is_grpc and parts.path not in ("", "/"):
        raise InvalidUrl(f"gRPC has no path, got {parts.path!r}; leave it out")
    if not is_secure and not tls.is_empty:
        raise InvalidUrl(f"certificates need TLS: use {scheme}s:// instead of {scheme}://, or give none")
    bracketed = f"[{host}]" if ":" in host else host
    return Address(url, is_grpc, is_secure, f"{bracketed}:{port or GRPC_PORT}")
