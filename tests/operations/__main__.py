"""Plays everything an operator does to a fleet, and what happens to one, under load: `make ops-test [SCENARIOS="…"]`.

Three real servers behind a real Envoy with the configuration of `deploy/envoy/`. Prints what became of every request,
and fails if more were lost than a scenario's bound.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.operations.envoy import Proxy, envoy, find_envoy
from tests.operations.fleet import ADMIN_TOKEN, DRAIN_NOTICE_S, build_store, fleet
from tests.operations.scenarios import SCENARIOS, Scenario, Stage, point_to
from tests.operations.traffic import Callers, Summary, Traffic, summaries

PHOTOGRAPH = Path(__file__).parent.parent / "photographs" / "tabby_cat.jpg"
_COLUMNS = "{:<19} {:<20} {:>5} {:>5} {:>6} {:>5} {:>10}  {}"


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.operations", description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", help="beginnings of names; all without any")
    parser.add_argument("--servers", type=int, default=3, choices=range(2, 9))
    parser.add_argument("--rate", type=float, default=8.0, help="requests a second of each of three kinds of callers")
    parser.add_argument("--budget-ms", type=float, default=500.0)
    return parser.parse_args(arguments)


def chosen(names: list[str]) -> list[Scenario]:
    """The scenarios that begin so."""
    return [scenario for scenario in SCENARIOS if not names or scenario.name.startswith(tuple(names))]


async def play(scenario: Scenario, stage: Stage) -> list[Summary]:
    """Run one scenario between two quiet moments, and say what became of its requests."""
    stage.traffic.start()
    await stage.traffic.until_sent(5)
    await scenario.play(stage)
    await stage.traffic.until_sent(5)
    await stage.traffic.stop()
    return summaries(stage.traffic)


def report(scenario: Scenario, found: list[Summary], options: argparse.Namespace, retries: int) -> bool:
    """Print a line for each kind of caller; whether all were within the bound."""
    holds = True
    for summary in found:
        lost, bound = summary.failed.total(), scenario.lost_max(summary.kind, options.rate, options.servers)
        holds = holds and lost <= bound
        by_status = ", ".join(f"{count} {status}" for status, count in summary.failed.most_common())
        row = (scenario.name, summary.kind, summary.sent, lost, bound, summary.late, summary.slowest_ms)
        sys.stdout.write(_COLUMNS.format(*row, by_status).rstrip() + "\n")
    sys.stdout.write(f"{'':<19} {retries} tries were made again{'' if holds else '; MORE WERE LOST THAN THE BOUND'}\n")
    sys.stdout.flush()
    return holds


async def run(options: argparse.Namespace, binary: str, folder: Path) -> bool:
    """Every chosen scenario, one after the other, on one fleet."""
    releases = (build_store(folder / "v1", "lite0-int8"), build_store(folder / "v2", "lite0-int8", "lite1-int8"))
    current, image = folder / "current", PHOTOGRAPH.read_bytes()
    point_to(current, releases[0])
    token = folder / "token"
    token.write_text(ADMIN_TOKEN)
    flags = ("--drain-notice-s", str(DRAIN_NOTICE_S), "--admin-token-file", str(token))
    held = []
    sys.stdout.write(
        _COLUMNS.format("scenario", "callers", "sent", "lost", "bound", "late", "slowest ms", "lost, by status") + "\n"
    )
    async with fleet(current, options.servers, flags) as servers:
        with envoy(binary, servers.addresses, folder) as proxy:
            for scenario in chosen(options.scenarios):
                async with Callers(proxy) as callers:
                    traffic = Traffic(callers.by_kind, image, rate=options.rate, budget_ms=options.budget_ms)
                    before = retries(proxy)
                    found = await play(scenario, Stage(servers, proxy, callers, traffic, image, current, releases))
                    held.append(report(scenario, found, options, retries(proxy) - before))
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
