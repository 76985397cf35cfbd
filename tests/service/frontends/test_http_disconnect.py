"""A caller that leaves takes its work with it, and nothing else."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from starlette.requests import ClientDisconnect

from service.frontends.http_disconnect import unless_disconnected
from tests.fakes.engine import HELD
from tests.fakes.http import running_server

WAIT_S = 20


class Caller:
    """The receiving end of a request: stays until told to leave."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, object]:
        await self.left.wait()
        return {"type": "http.disconnect"}


class Work:
    """Runs until it is allowed to end; remembers whether it was cancelled."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.cancelled = False

    async def run(self) -> str:
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return "done"


def test_work_of_a_caller_who_stays_is_returned() -> None:
    """The result comes back, and nothing keeps waiting for the caller afterwards."""

    async def scenario() -> None:
        caller, work = Caller(), Work()
        work.may_end.set()
        assert await unless_disconnected(caller.receive, work.run()) == "done"
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def test_errors_of_the_work_come_through() -> None:
    """What the work raises is raised, unchanged."""

    async def fails() -> None:
        raise LookupError("as it was")

    async def scenario() -> None:
        with pytest.raises(LookupError, match="as it was"):
            await unless_disconnected(Caller().receive, fails())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def test_a_caller_who_leaves_cancels_the_work() -> None:
    """The work is cancelled and has ended before the disconnect is reported."""

    async def scenario() -> None:
        caller, work = Caller(), Work()
        caller.left.set()
        with pytest.raises(ClientDisconnect):
            await unless_disconnected(caller.receive, work.run())
        assert work.cancelled
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def test_a_result_that_is_ready_wins_over_a_disconnect() -> None:
    """When both happen at once the work counts as done, not as cancelled."""

    async def scenario() -> None:
        caller, work = Caller(), Work()
        task = asyncio.ensure_future(unless_disconnected(caller.receive, work.run()))
        for _ in range(3):
            await asyncio.sleep(0)  # yields, without time passing: both start waiting
        caller.left.set()
        work.may_end.set()
        assert await task == "done"
        assert not work.cancelled

    asyncio.run(scenario())


def test_a_cancelled_server_cancels_the_work() -> None:
    """When the exchange itself is cancelled, so is what it was waiting for."""

    async def scenario() -> None:
        caller, work = Caller(), Work()
        task = asyncio.ensure_future(unless_disconnected(caller.receive, work.run()))
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.cancelled
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


@pytest.mark.parametrize("images", [1, 2], ids=["raw", "one of several"])
def test_closing_the_socket_cancels_the_request(app, engine, images) -> None:
    """Over a real connection: the client closes it, the engine's call is cancelled, the server serves on."""
    content = httpx.Request("POST", "http://x", files=[("image", image) for image in (HELD, b"quick")[:images]])
    head = (
        f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content.read())}\r\n"
        f"Content-Type: {content.headers['content-type']}\r\n\r\n"
    )
    with running_server(app) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + content.content)
            assert engine.held.wait(WAIT_S), "the engine was not asked"
            assert not engine.cancelled.is_set()
        assert engine.cancelled.wait(WAIT_S), "the request outlived its caller"
        assert httpx.post(f"http://127.0.0.1:{port}/classify", content=b"next").status_code == 200


def test_leaving_in_the_middle_of_a_body_asks_nothing(app, engine, caplog) -> None:
    """Half an image never reaches the engine, is no error of the server, and the server serves on."""
    with running_server(app) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        assert httpx.post(f"http://127.0.0.1:{port}/classify", content=b"next").status_code == 200
    assert [call.image for call in engine.calls] == [b"next"]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
