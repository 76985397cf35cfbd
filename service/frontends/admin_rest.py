"""What an operator may ask of a running server over HTTP: to serve what the store holds now. Off unless installed.

Each call carries the bearer token that is in a file. It is asked for wherever the call comes from: a page in a browser
on the same machine reaches loopback addresses too. Holds no business logic.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request

from service.core.generation import Reloaded
from service.errors import Unauthenticated

NS_PER_S = 1_000_000_000
TOKEN_CHARACTERS_MIN = 16
_TOKEN_BYTES_MAX = 4096


class TokenError(Exception):
    """The file holds no token that can be used. The message names the file and says what it must hold."""


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A file with one token in it. It is read for each call, so that a token can be replaced while serving."""

    path: Path

    def read(self) -> str:
        """The token.

        Raises:
            TokenError: the file cannot be read, or what it holds is too short to be a secret.
        """
        try:
            with self.path.open("rb") as file:
                token = file.read(_TOKEN_BYTES_MAX).strip()
        except OSError as error:
            raise TokenError(f"cannot read the token in {self.path}: {error.strerror}") from error
        if len(token) < TOKEN_CHARACTERS_MIN or not token.isascii() or b" " in token:
            raise TokenError(
                f"{self.path} must hold a token of {TOKEN_CHARACTERS_MIN} or more ASCII characters without spaces; "
                "make one with `openssl rand -hex 32`"
            )
        return token.decode()

    def admits(self, authorization: str | None) -> bool:
        """Whether an `Authorization` header carries the token, in time that says nothing of how much of it."""
        try:
            token = self.read()
        except TokenError:
            return False
        scheme, _, given = (authorization or "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def install_admin(api: FastAPI, token: TokenFile, reload: Callable[[], Awaitable[Reloaded]]) -> None:
    """Serve `POST /admin/reload` with `reload`, to whoever has `token`."""

    @api.post(
        "/admin/reload",
        summary="Serve what the store holds now",
        tags=["operators"],
        responses={
            401: {"description": "No token, or a wrong one."},
            409: {"description": "What the store holds cannot be served, and why; what was served still is."},
            503: {"description": "The server is draining."},
        },
    )
    async def reload_store(request: Request) -> dict[str, Any]:
        """Load it beside what is served, measure, warm, and swap between runs; no request is lost by it."""
        if not token.admits(request.headers.get("authorization")):
            raise Unauthenticated("send the token of --admin-token-file as `Authorization: Bearer …`")
        reloaded = await reload()
        return {
            "version": reloaded.version,
            "changed": reloaded.changed,
            "variants": list(reloaded.variants),
            "took_s": round(reloaded.took_ns / NS_PER_S, 3),
        }
