"""Plays everything an operator does to a fleet, and what happens to one, under load: `make ops-test [SCENARIOS="…"]`.

Three real servers behind a real Envoy with the configuration of `deploy/envoy/`. Before each scenario it measures what
the fleet can do on what is left of this machine, and sends a share of that. Prints what became of every request, and
fails if more were lost than the scenario's bound, or if in each of three plays more were refused because of load than
may be: what an operation costs it costs every time, and what other programs take from the machine they do not.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.operations.callers import Callers
from tests.operations.envoy import Proxy, envoy, find_envoy
from tests.operations.fleet import ADMIN_TOKEN, DRAIN_NOTICE_S, Fleet, build_store, fleet
from tests.operations.scenarios import SCENARIOS, Scenario, Stage, point_to
from tests.operations.traffic import Summary, Traffic, capacity_per_s, summaries

PHOTOGRAPH = Path(__file__).parent.parent / "photographs" / "tabby_cat.jpg"
_COLUMNS = "{:<19} {:<20} {:>5} {:>5} {:>6} {:>8} {:>5} {:>10}  {}"
_HEADER = (
    "scenario",
    "callers",
    "sent",
    "lost",
    "bound",
    "refused",
    "late",
    "slowest ms",
    "lost and refused, by status",
)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.operations", description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", help="beginnings of names; all without any")
    parser.add_argument("--servers", type=int, default=3, choices=range(2, 9))
    parser.add_argument("--load", type=float, default=0.2, help="traffic, as a share of what the fleet can answer")
    parser.add_argument("--budget-ms", type=float, default=1000.0, help="of each request; the server's own default")
    parser.add_argument("--refused-max", type=float, default=0.01, help="share that may be refused because of load")
    return parser.parse_args(arguments)


def chosen(names: list[str]) -> list[Scenario]:
    """The scenarios that begin so."""
    return [scenario for scenario in SCENARIOS if not names or scenario.name.startswith(tuple(names))]


_PLAYS_MAX = 3


async def play(scenario: Scenario, stage: Stage) -> list[Summary]:
    """Run one scenario between two quiet moments, and say what became of its requests."""
    stage.traffic.start()
    await stage.traffic.until_sent(5)
    await scenario.play(stage)
    await stage.traffic.until_sent(5)
    await stage.traffic.stop()
    return summaries(stage.traffic)


def report(
    scenario: Scenario, found: list[Summary], traffic: Traffic, options: argparse.Namespace
) -> tuple[bool, bool]:
    """Print a line for each kind of caller; whether what was lost, and what was refused, is within its bound."""
    holds = True
    for summary in found:
        lost, bound = summary.lost.total(), scenario.lost_max(summary.kind, traffic.rate, options.servers)
        holds = holds and lost <= bound
        by_status = ", ".join(f"{count} {status}" for status, count in (summary.lost + summary.refused).most_common())
        row = (scenario.name, summary.kind, summary.sent, lost, bound, summary.refused.total(), summary.late)
        sys.stdout.write(_COLUMNS.format(*row, summary.slowest_ms, by_status).rstrip() + "\n")
    sent, refused = (sum(counts) for counts in zip(*((one.sent, one.refused.total()) for one in found), strict=True))
    refused_max = math.ceil(options.refused_max * sent)
    if not holds:
        sys.stdout.write(f"{'':<19} MORE WERE LOST THAN THE BOUND\n")
    if refused > refused_max:
        sys.stdout.write(f"{'':<19} {refused} of {sent} were refused because of load, and {refused_max} may be\n")
    return holds, refused <= refused_max


async def bounds_hold(
    scenario: Scenario, fleet: Fleet, proxy: Proxy, scene: Scene, options: argparse.Namespace
) -> bool:
    """Play one scenario, again if load had too many refused; whether its bounds held."""
    for _ in range(_PLAYS_MAX):
        async with Callers(proxy) as callers:
            capacity = await capacity_per_s(callers.by_kind[Callers.HTTP], scene.image, options.servers)
            rate = options.load * capacity / len(callers.by_kind)
            traffic = Traffic(callers.by_kind, scene.image, rate=rate, budget_ms=options.budget_ms)
            before = retries(proxy)
            stage = Stage(fleet, proxy, callers, traffic, scene.image, scene.current, scene.releases)
            losses_hold, refusals_hold = report(scenario, await play(scenario, stage), traffic, options)
            again = retries(proxy) - before
            sys.stdout.write(f"{'':<19} {capacity:.0f} answers/s measured before; {again} tries made again\n")
            sys.stdout.flush()
        if refusals_hold or not losses_hold:
            return losses_hold
    sys.stdout.write(f"{'':<19} MORE WERE REFUSED THAN MAY BE, IN EACH OF {_PLAYS_MAX} PLAYS\n")
    return False


@dataclass(frozen=True, slots=True)
class Scene:
    """What every play has: the picture, the link to the store, and the two stores that it may point to."""

    image: bytes
    current: Path
    releases: tuple[Path, Path]


async def run(options: argparse.Namespace, binary: str, folder: Path) -> bool:
    """Every chosen scenario, one after the other, on one fleet."""
    releases = (build_store(folder / "v1", "lite0-int8"), build_store(folder / "v2", "lite0-int8", "lite1-int8"))
    current, image = folder / "current", PHOTOGRAPH.read_bytes()
    point_to(current, releases[0])
    token = folder / "token"
    token.write_text(ADMIN_TOKEN)
    flags = ("--drain-notice-s", str(DRAIN_NOTICE_S), "--admin-token-file", str(token))
    sys.stdout.write(_COLUMNS.format(*_HEADER) + "\n")
    scene = Scene(image, current, releases)
    async with fleet(current, options.servers, flags) as servers:
        with envoy(binary, servers.addresses, folder) as proxy:
            held = [
                await bounds_hold(scenario, servers, proxy, scene, options) for scenario in chosen(options.scenarios)
            ]
    return all(held)


def retries(proxy: Proxy) -> int:
    """How often the proxy has sent a request again."""
    return proxy.total("upstream_rq_retry")


def main() -> int:
    """Find Envoy, play, and say whether every bound held."""
    options = parse(sys.argv[1:])
    if (binary := find_envoy()) is None:
        sys.stderr.write("envoy is not on the path; `make ops-test` installs it into .venv-deploy\n")
        return 2
    if not chosen(options.scenarios):
        sys.stderr.write(f"no such scenario; there are: {', '.join(scenario.name for scenario in SCENARIOS)}\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        return 0 if asyncio.run(run(options, binary, Path(folder))) else 1


if __name__ == "__main__":
    sys.exit(main())
