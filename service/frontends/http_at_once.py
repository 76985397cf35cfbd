"""The interface of what is answered as soon as it has been read, without a task: refusals, of which a flood has most.

A task, a stream of messages and the application's layers cost several times as much as finding out that a request
is refused. The HTTP server asks `AtOnce` first; an exchange that it does not answer goes to the application as if
nobody had asked.
"""

from __future__ import annotations

from typing import Protocol

from starlette.responses import Response
from starlette.types import Scope


class AtOnce(Protocol):
    """Asked on the event loop's thread, in this order and in the exchange's own context. Nothing waits for anything."""

    def takes(self, scope: Scope) -> bool:
        """Whether `answer` shall be asked, once the body has been read whole; the application is not told before.

        `scope` is all that is known when the head has arrived. The body of what is taken must have a bound.
        """

    def begin(self, scope: Scope) -> None:
        """An exchange that is taken has begun: whoever observes it may be told."""

    def answer(self, scope: Scope, body: bytes) -> Response | None:
        """The whole answer, as the application would give it and told to observers; None if the application shall."""
