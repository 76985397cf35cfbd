"""The interface of what is answered without the application: the pictures that nearly all requests bring, and refusals.

The application's layers, their stream of messages and a second task to watch the caller cost as much as everything
that is decided for the request. The HTTP server asks `AtOnce` first; an exchange that it does not answer goes to the
application as if nobody had asked.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol, TypeAlias

from starlette.responses import Response
from starlette.types import Scope

Answering: TypeAlias = Coroutine[Any, Any, Response]
"""Comes to the whole answer. Cancelled when the caller leaves; raises nothing else. It is begun in any case."""


class AtOnce(Protocol):
    """Asked on the event loop's thread, in this order and in the exchange's own context. Nothing waits for anything."""

    def takes(self, scope: Scope) -> bool:
        """Whether `answer` shall be asked, once the body has been read whole; the application is not told before.

        `scope` is all that is known when the head has arrived. The body of what is taken must have a bound.
        """

    def begin(self, scope: Scope) -> None:
        """An exchange that is taken has begun: whoever observes it may be told."""

    def answer(self, scope: Scope, body: bytes) -> Response | Answering | None:
        """The whole answer, as the application would give it and told to observers, or what comes to it.

        None if the application shall.
        """
