"""The moment at which the port may be closed without losing a call that is already there or on its way.

gRPC ends with CANCELLED what it holds and has not begun, and what comes from clients that have not heard yet that the
server stops (github.com/grpc/grpc/issues/41785). After UNAVAILABLE a client tries elsewhere; CANCELLED is its own doing
to it. So calls are held back until none has come or ended for a moment, and the port is closed then: who has just got
an answer is about to call again, and who gets one later has got the news before it, on the same connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

# No call that comes or ends for so long is quiet; less and less is as the longest wait passes: some clients never are.
_QUIET_S = 0.05
_QUIET_WAIT_S = 1.0
_LOOKS = 10
# What has come to gRPC begins within so many turns of the loop: the event, its task, the call's own task.
_TURNS_TO_BEGIN = 5


class CallsBeforeClosing(grpc.aio.ServerInterceptor):
    """Knows when calls begin and end, and from `hold` to `release` holds back those that do.

    A caller that waits for its answer sends nothing more: held, callers that send one call after another are quiet.
    """

    def __init__(self) -> None:
        self._changes = 0
        self._may_go_on = asyncio.Event()
        self._may_go_on.set()

    def hold(self) -> None:
        """Begin no more calls for now."""
        self._may_go_on.clear()

    def release(self) -> None:
        """Pass on what was held, and what comes."""
        self._may_go_on.set()

    async def quiet(self) -> None:
        """Return when no call has come or ended for a moment, within about a second in any case."""
        now_s = asyncio.get_running_loop().time
        since_s = quiet_since_s = now_s()
        changes = self._changes
        while now_s() - quiet_since_s < _QUIET_S * (1 - (now_s() - since_s) / _QUIET_WAIT_S):
            await asyncio.sleep(_QUIET_S / _LOOKS)
            for _ in range(_TURNS_TO_BEGIN):
                await asyncio.sleep(0)
            if changes != self._changes:
                changes, quiet_since_s = self._changes, now_s()

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        self._changed()
        call = asyncio.current_task()
        assert call is not None, "gRPC serves each call in a task of its own"
        call.add_done_callback(self._changed)
        if not self._may_go_on.is_set():
            await self._may_go_on.wait()
        return await continuation(handler_call_details)

    def _changed(self, _call: object = None) -> None:
        self._changes += 1
