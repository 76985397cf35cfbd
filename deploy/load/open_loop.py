"""A little traffic for a phiserve that runs: photographs at random times, under mixed budgets, for a bounded time.

Open loop: a request is sent when it is due, whether or not the ones before it were answered, so that a slow server
gets no mercy (Schroeder, Wierman, Harchol-Balter: Open Versus Closed, NSDI 2006). It retries nothing. It is for looking
at dashboards and alerts; figures that mean something come from `make bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import random
import sys
from pathlib import Path

from phiserve import AsyncClient, PhiserveError, RetryPolicy

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


async def send(client: AsyncClient, image: bytes, budget_ms: float, counts: collections.Counter[str]) -> None:
    """One request; counts what became of it by variant or by kind of error."""
    try:
        answer = await client.classify(image, budget_ms=budget_ms, top_k=1)
    except PhiserveError as error:
        counts[type(error).__name__] += 1
    else:
        counts[answer.variant.name] += 1


async def run(options: argparse.Namespace, images: list[bytes]) -> collections.Counter[str]:
    """Send at exponential intervals until the time is over, then wait for the last answers."""
    counts: collections.Counter[str] = collections.Counter()
    chance = random.Random(options.seed)  # noqa: S311 - traffic, no secret
    loop = asyncio.get_running_loop()
    async with AsyncClient(options.url, retry=RetryPolicy(attempts_max=1)) as client, asyncio.TaskGroup() as sent:
        due = loop.time()
        ends = due + options.seconds
        while (due := due + chance.expovariate(options.rate)) < ends:
            await asyncio.sleep(max(0.0, due - loop.time()))
            budget_ms = chance.choice(options.budgets_ms)
            sent.create_task(send(client, chance.choice(images), budget_ms, counts))
    return counts


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; every option has a bound or a default that a laptop bears."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of photographs")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second, on average")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long; it always ends")
    parser.add_argument(
        "--budgets-ms", type=float, nargs="+", default=[30.0, 50.0, 100.0, 300.0], help="drawn at random"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main() -> int:
    """Run, print one line of counts, and fail if nothing was answered."""
    options = parse(sys.argv[1:])
    images = [path.read_bytes() for path in sorted(options.images.iterdir()) if path.suffix.lower() in SUFFIXES]
    if not images:
        sys.stderr.write(f"{options.images} holds no photograph; give a folder of {', '.join(sorted(SUFFIXES))}\n")
        return 2
    counts = asyncio.run(run(options, images))
    sys.stdout.write(", ".join(f"{name} {count}" for name, count in counts.most_common()) + "\n")
    return 0 if any(name[0].islower() for name in counts) else 1


if __name__ == "__main__":
    sys.exit(main())
