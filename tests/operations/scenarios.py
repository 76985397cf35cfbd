"""What happens to a fleet while it is under load, and how many requests it may cost. One function each.

A scenario returns when the fleet is whole again; traffic goes on through all of it. How many requests may be lost is
beside each scenario. What servers refuse because of load is no loss, and has one bound for all, in `__main__.py`: the
first scenario, in which nothing happens, says how much of it is not the operations' doing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.operations.callers import Callers
from tests.operations.envoy import Address, Proxy
from tests.operations.fleet import Fleet
from tests.operations.traffic import Traffic

HANG_S = 12.0
"""Longer than any caller waits, so that what was sent into it is lost and not only late."""
_REFUSALS = 60
_CALM_REQUESTS = 20


@dataclass(frozen=True, slots=True)
class Stage:
    """What a scenario plays on. `current` is the link to the store that servers read when they start."""

    fleet: Fleet
    proxy: Proxy
    callers: Callers
    traffic: Traffic
    image: bytes
    current: Path
    releases: tuple[Path, Path]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A happening with its bound on requests without an answer.

    The bound is in seconds of one server's share of the traffic, by kind of caller; a kind that is not there loses
    none.
    """

    name: str
    play: Callable[[Stage], Awaitable[None]]
    lost_s: Mapping[str, float] = field(default_factory=dict)

    def lost_max(self, kind: str, rate: float, servers: int) -> int:
        """How many requests of a kind may be lost at `rate` of them a second."""
        return math.ceil(self.lost_s.get(kind, 0.0) * rate / servers)


def ports_by_kind(address: Address) -> dict[str, int]:
    """The port that answers each kind of caller."""
    return {Callers.HTTP: address.rest, Callers.GRPC: address.grpc, Callers.GRPC_BOUNDED: address.grpc}


async def replace_server(fleet: Fleet, traffic: Traffic, place: int) -> None:
    """Drain one server and start it anew; returns when it answers every kind of caller."""
    code = await fleet.drain(place)
    assert code == 0, f"a drained server ended with {code}"
    await fleet.start(place)
    await traffic.until_served_by(ports_by_kind(fleet.addresses[place]))


async def nothing_happens(stage: Stage) -> None:
    """Traffic alone: what it loses, any scenario loses."""
    await stage.traffic.until_sent(_CALM_REQUESTS)


async def rolling_restart(stage: Stage) -> None:
    """One server after the other is drained, ends, and starts anew."""
    for place in range(len(stage.fleet.addresses)):
        await replace_server(stage.fleet, stage.traffic, place)


async def new_release(stage: Stage) -> None:
    """The same, with another store behind the link: old and new variants answer side by side until all are new."""
    old, new = stage.releases
    point_to(stage.current, new)
    await rolling_restart(stage)
    seen = {sent.ended.variant for sent in stage.traffic.sent}
    added = {path.name for path in new.iterdir()} - {path.name for path in old.iterdir()}
    assert seen & added, f"no answer came from what is new ({', '.join(added)}): {seen}"


def point_to(link: Path, target: Path) -> None:
    """Make `link` point there, at one moment: whoever opens it sees the old store or the new one."""
    fresh = link.with_name(link.name + ".new")
    fresh.symlink_to(target)
    fresh.replace(link)


async def hot_reload(stage: Stage) -> None:
    """Stores change behind the link, and servers are told to read them: none is drained, and none starts anew."""
    old, new = stage.releases
    for release in (new, old):
        point_to(stage.current, release)
        for place in range(len(stage.fleet.addresses)):
            served = await stage.fleet.reload(place)
            assert set(served) == {path.name for path in release.iterdir() if path.name in ("lite0-int8", "lite1-int8")}
        await stage.traffic.until_sent(5)


async def killed(stage: Stage) -> None:
    """One server is killed in the middle of its work, and started again.

    It stands still for a moment before, so that requests are inside for sure.
    """
    stage.fleet.pause(0)
    await stage.traffic.until_sent(3)
    await stage.fleet.kill(0)
    await stage.traffic.until_sent(20)
    await stage.fleet.start(0)
    await stage.traffic.until_served_by(ports_by_kind(stage.fleet.addresses[0]))


async def hanging(stage: Stage) -> None:
    """One server stands still for a while: connections to it stay open, and nothing answers."""
    stage.fleet.pause(0)
    resumed = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(HANG_S, resumed.set_result, None)
    await resumed
    stage.fleet.resume(0)
    await stage.traffic.until_served_by(ports_by_kind(stage.fleet.addresses[0]))


async def refusals(stage: Stage) -> None:
    """Somebody asks again and again for what no variant can do: refused each time, and no server is ejected for it."""
    counted = ("upstream_rq_retry", "outlier_detection.ejections_enforced_total")
    before = [stage.proxy.total(name) for name in counted]
    for _ in range(_REFUSALS):
        ended = await stage.callers.by_kind[Callers.HTTP](stage.image, 1.0)
        assert (ended.refused, ended.outcome) == (True, "HTTP 504"), ended
    assert [stage.proxy.total(name) for name in counted] == before, "a refusal was tried again, or ejected a server"


# What the health checks of deploy/envoy/envoy.yaml take to see it: twice an interval and a timeout.
_SEEN_HANGING_S = 4.0

SCENARIOS = (
    Scenario("nothing happens", nothing_happens),
    Scenario("rolling restart", rolling_restart),
    Scenario("new release", new_release),
    Scenario("hot reload", hot_reload),
    Scenario("one killed", killed),
    # Callers who bound no try wait in the server that hangs, until their own patience ends.
    Scenario("one hangs for 12 s", hanging, {Callers.GRPC: _SEEN_HANGING_S}),
    Scenario("refusals", refusals),
)
