"""The smallest of what `make ops-test` plays: a server behind a real proxy is replaced, and nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.operations.callers import ANSWERED, Callers
from tests.operations.envoy import envoy, find_envoy
from tests.operations.fleet import build_store, fleet
from tests.operations.scenarios import ports_by_kind, replace_server
from tests.operations.traffic import Traffic

PHOTOGRAPH = Path(__file__).parent.parent / "photographs" / "tabby_cat.jpg"
ENVOY = find_envoy()


@pytest.mark.skipif(
    ENVOY is None, reason="envoy is neither on the path nor in .venv-deploy; `make ops-test` installs it"
)
def test_replacing_a_server_loses_nothing(tmp_path) -> None:
    """One of two servers is drained and replaced under HTTP and gRPC traffic, and every request is answered."""
    store = build_store(tmp_path / "store", "lite0-int8")

    async def run() -> Traffic:
        async with fleet(store, 2, ("--drain-notice-s", "2.5")) as servers:
            with envoy(str(ENVOY), servers.addresses, tmp_path) as proxy:
                async with Callers(proxy) as callers:
                    traffic = Traffic(callers.by_kind, PHOTOGRAPH.read_bytes(), rate=5, budget_ms=2000)
                    traffic.start()
                    await traffic.until_served_by(ports_by_kind(servers.addresses[0]))
                    await replace_server(servers, traffic, 0)
                    await traffic.stop()
        return traffic

    traffic = asyncio.run(run())
    assert {sent.kind for sent in traffic.sent} == {Callers.HTTP, Callers.GRPC, Callers.GRPC_BOUNDED}
    assert [sent for sent in traffic.sent if sent.ended.outcome != ANSWERED] == []
