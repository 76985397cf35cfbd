"""The Open Inference Protocol over `service.core.engine`, for every wire: a request's pictures in, its answer out.

A request of several pictures is several of the engine's, answered all or not at all. Knows neither HTTP nor gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from service.core.engine import Engine
from service.core.request import Classification, Picture
from service.frontends.oip_answer import InferAnswer, build_answer
from service.frontends.oip_models import Models
from service.frontends.oip_request import InferCall, InferWork, OipLimits, RequestReader


class OipService:
    """What both fronts of the protocol translate to."""

    def __init__(self, engine: Engine, limits: OipLimits) -> None:
        """Over `engine`, which need not be open yet."""
        self.models = Models(engine)
        self.limits = limits
        self.now_ns: Callable[[], int] = engine.now_ns
        self._engine = engine
        self._reader = RequestReader(engine, self.models, limits)

    async def infer(
        self,
        call: InferCall,
        *,
        received_ns: int,
        began_ns: int | None = None,
        client: str,
        call_budget_ns: int | None = None,
    ) -> InferAnswer:
        """Answer `call`, whose budget counts from `received_ns`. Cancelling this cancels all its pictures.

        `began_ns` as in `Engine.infer`; `client` is the key that fairness goes by; `call_budget_ns` what the wire's own
        deadline leaves, if it has one.

        Raises:
            PhiserveError: see `RequestReader.read` and `Engine.infer`; of several pictures the first to fail.
        """
        work = self._reader.read(call, call_budget_ns)

        async def infer_one(picture: Picture) -> Classification:
            return await self._engine.infer(
                picture, work.options, received_ns=received_ns, began_ns=began_ns, client=client
            )

        return build_answer(call, work, await _all(work, infer_one))


async def _all(
    work: InferWork, infer_one: Callable[[Picture], Coroutine[Any, Any, Classification]]
) -> list[Classification]:
    if len(work.pictures) == 1:
        return [await infer_one(work.pictures[0])]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(infer_one(picture)) for picture in work.pictures]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
