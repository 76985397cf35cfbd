"""Work that ends when its caller leaves: nobody pays for an answer that nobody will read."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, cancelled as soon as the caller disconnects.

    The request's body must have been read: what `receive` still tells is then only the disconnect. If the caller
    of this function is cancelled itself, so is `work`. Either way `work` has ended when this returns or raises.

    Raises:
        ClientDisconnect: the caller left first.
        whatever `work` raises.
    """
    task = asyncio.current_task()
    assert task is not None, "an exchange is served by a task"
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        await asyncio.sleep(0)  # a result that is ready counts
        left = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        # As in `asyncio.timeout`: only the cancellation from here is taken back, not one that came besides.
        if left and task.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        watching.cancel()
        await asyncio.sleep(0)  # in which it ends
