"""uvicorn's protocol, as this server runs it: notes when each request was read, and has some answered at once.

What may be answered at once is read whole before the application is told of it, or never told: then it is answered
from here, by one task where that takes time. Everything else goes uvicorn's own way. It knows no route and judges no
request. Needs httptools, which is not there on every platform.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.frontends.http_at_once import Answering, AtOnce
from service.frontends.http_body import BEGAN_NS, RECEIVED_NS
from service.frontends.http_drain import cut_answer

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Reception:
    """What a server's connections share: who may answer at once, and the exchanges that are read or answered for it."""

    def __init__(self, at_once: AtOnce | None, trusted_proxies: Sequence[str]) -> None:
        """`trusted_proxies`: whose headers say who calls, before `at_once` is asked."""
        self._at_once = at_once
        self._proxies: Any = ProxyHeadersMiddleware(_nothing, list(trusted_proxies)) if trusted_proxies else None  # type: ignore[arg-type] # uvicorn has types of its own
        self.waiting: dict[RequestResponseCycle, _Waiting] = {}
        self.answering: set[asyncio.Task[None]] = set()
        self.is_cut = False

    def takes(self, scope: Scope) -> bool:
        """Whether an exchange shall be read whole. It has begun then, and in the current context."""
        if self._at_once is None or not self._at_once.takes(scope):
            return False
        if self._proxies is not None:
            with suppress(StopIteration):  # it waits for nothing
                self._proxies(scope, None, None).send(None)
        self._at_once.begin(scope)
        return True

    @property
    def is_closed(self) -> bool:
        """Whether each answer is the last of its connection."""
        return self._at_once is None

    def answer(self, scope: Scope, body: bytes) -> Response | Answering | None:
        """The answer to what has been read whole, or what comes to it; None if the application has to be told."""
        if self._at_once is None:
            return None
        try:
            return self._at_once.answer(scope, body)
        except Exception:  # noqa: BLE001 - the application meets it as well, logs it and answers for it
            return None

    def close(self) -> None:
        """From now on the application is told of everything at once, of what is being read as well.

        What is being answered ends its connection, as the application's answers do while a server drains.
        """
        self._at_once = None
        for cycle in tuple(self.waiting):
            self.tell(cycle)

    def cut(self) -> None:
        """What is being answered gets the answer of what is cut instead. To be closed before, by a turn of the loop."""
        self.is_cut = True
        for task in self.answering:
            task.cancel()

    def tell(self, cycle: RequestResponseCycle) -> None:
        """Tell the application of an exchange, if it has not been told."""
        if (waiting := self.waiting.pop(cycle, None)) is not None:
            waiting.context.run(waiting.start)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An exchange that is being read: its own context, its body so far, and what tells the application of it."""

    context: Context
    pieces: list[bytes]
    start: Callable[[], None]


class ReceptionProtocol(HttpToolsProtocol):
    """Make a subclass that knows its `reception`, and the clock `now_ns`."""

    reception: Reception
    now_ns: Callable[[], int]
    _answering: asyncio.Task[None] | None = None

    def on_message_begin(self) -> None:
        """Note when, under `BEGAN_NS`."""
        super().on_message_begin()
        self._note(BEGAN_NS)

    def on_body(self, body: bytes) -> None:
        """Keep it; and go on reading, since who is read whole has a bound."""
        if (waiting := self.reception.waiting.get(self.cycle)) is not None:
            waiting.pieces.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note when, under `RECEIVED_NS`."""
        self._note(RECEIVED_NS)
        super().on_message_complete()
        if (waiting := self.reception.waiting.get(self.cycle)) is not None:
            # When a task would run: the loop's lag is known by turns, in which first all is read that has come.
            self.loop.call_soon(self._judge, self.cycle, context=waiting.context)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody works for who has left; the application is told of the beginning, to find that the caller has."""
        super().connection_lost(exc)
        self.reception.tell(self.cycle)
        if self._answering is not None:
            # A turn later: what came in this one may just have begun, and must not be stopped before it has.
            self.loop.call_soon(self._answering.cancel)

    def _note(self, name: str) -> None:
        scope: MutableMapping[str, Any] = self.scope  # type: ignore[assignment] # uvicorn's type knows no further keys
        scope[name] = self.now_ns()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Not yet, if it shall be read whole. A pipelined one may be there already, and is not taken then."""
        begins = cycle is self.cycle and cycle.more_body and cycle.keep_alive and not cycle.waiting_for_100_continue
        start, context = super()._start_asgi_task, copy_context()
        if not begins or not context.run(self.reception.takes, cycle.scope):  # type: ignore[arg-type] # as above
            start(cycle, app)
            return
        pieces: list[bytes] = []

        def tell() -> None:
            cycle.body += b"".join(pieces)
            start(cycle, app)

        self.reception.waiting[cycle] = _Waiting(context, pieces, tell)

    def _judge(self, cycle: RequestResponseCycle) -> None:
        """Answer what has been read whole, or tell the application, unless it was told meanwhile."""
        if (waiting := self.reception.waiting.pop(cycle, None)) is None:
            return
        # An answer that closes its connection, or has to wait for its caller to read, is the application's.
        is_plain = cycle.keep_alive and not self.flow.write_paused
        found = self.reception.answer(cycle.scope, b"".join(waiting.pieces)) if is_plain else None  # type: ignore[arg-type]
        if found is None:
            waiting.start()
        elif isinstance(found, Response):
            self._write(cycle, found)
        else:
            self._answering = self.loop.create_task(self._answer(cycle, found), context=waiting.context)
            # Where uvicorn looks for what its end has to wait for.
            for tasks in (self.tasks, self.reception.answering):
                tasks.add(self._answering)
                self._answering.add_done_callback(tasks.discard)

    async def _answer(self, cycle: RequestResponseCycle, answering: Answering) -> None:
        try:
            response = await answering
        except asyncio.CancelledError:
            if not self.reception.is_cut or self.transport.is_closing():
                raise
            response = cut_answer(cycle.scope)  # type: ignore[arg-type]
        finally:
            self._answering = None
        if self.flow.write_paused:  # by answers before, which the caller does not read
            await self.flow.drain()
        if not self.transport.is_closing():
            self._write(cycle, response)

    def _write(self, cycle: RequestResponseCycle, response: Response) -> None:
        cycle.response_started = cycle.response_complete = True
        fields = [b"%b: %b\r\n" % field for field in (*cycle.default_headers, *response.raw_headers)]
        is_last = self.reception.is_closed or not cycle.keep_alive  # uvicorn's own word while it ends
        if is_last:
            fields.append(b"connection: close\r\n")
        self.transport.write(b"".join((STATUS_LINE[response.status_code], *fields, b"\r\n", response.body)))
        if is_last:
            self.transport.close()
        cycle.on_response()
        cycle.on_response = _nothing_to_do  # as uvicorn does when an application has ended: it breaks a ring


def _nothing_to_do() -> None:
    pass


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """The application behind a middleware of which only what it does before is wanted."""
