"""FastAPI: the body is read on the event loop, the work done in its thread pool. `PEER_WORKERS` threads a process.

Run by `uvicorn --factory …:application`, whose `--workers` are processes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from benchmarks.peers import peer_model


def application() -> FastAPI:
    """The app of one process, over a session of its own."""
    model = peer_model.PeerModel()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Forty threads, the default, would fight over the cores.
        anyio.to_thread.current_default_thread_limiter().total_tokens = peer_model.workers()
        yield

    app = FastAPI(lifespan=lifespan)

    def work(photograph: bytes) -> bytes:
        return orjson.dumps(model.classify(photograph))

    @app.post("/classify")
    async def classify(request: Request) -> Response:
        answer = await run_in_threadpool(work, await request.body())
        return Response(answer, media_type="application/json")

    return app
