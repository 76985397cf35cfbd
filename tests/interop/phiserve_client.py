"""phiserve's own client, blocking and on asyncio over both wires, in the environment of another server's client."""

from __future__ import annotations

import asyncio
import importlib
import sys
from importlib.metadata import PackageNotFoundError, version

from checks import PATIENT, VARIANT, Checks

from phiserve import AsyncClient, Classification, Client, UnknownVariant

HOSTS = {
    "mlserver": "mlserver.grpc.dataplane_pb2",  # first, since it brings tritonclient
    "tritonclient": "tritonclient.grpc",
    "kserve": "kserve",
    "grpcio-reflection": None,
}
"""What may share the environment, by distribution, and the module that loads its messages."""


def host() -> str:
    """Which of them does; its messages are loaded, since two kinds of them share one pool of descriptors."""
    for name, module in HOSTS.items():
        try:
            found = f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
        if module is not None:
            sys.argv = sys.argv[:1]  # kserve reads the command line when it is imported
            importlib.import_module(module)
        return found
    raise LookupError(f"none of {', '.join(HOSTS)} is installed here")


def same_classes(checks: Checks, answer: Classification) -> None:
    told = [(row.index, row.label) for row in answer.predictions]
    assert told == [(index, label) for index, label, _ in checks.classes(len(told))], told
    assert answer.variant.name == VARIANT


def main() -> None:
    beside = host()
    checks = Checks("phiserve", f"beside {beside}, protobuf {version('protobuf')}, grpcio {version('grpcio')}")
    asked = {"variant": VARIANT, "top_k": 3} | PATIENT
    for url in (checks.http, f"grpc://{checks.grpc}"):
        wire = url.partition(":")[0]
        with Client(url) as client:
            with checks.check(f"{wire} classification"):
                same_classes(checks, client.classify(checks.picture, **asked))
            with checks.check(f"{wire} variants"):
                assert VARIANT in {row.name for row in client.variants()}
            with checks.check_error(f"{wire}, unknown variant", UnknownVariant, lambda _: True):
                client.classify(checks.picture, variant="nothing")

        async def classify(url: str = url) -> Classification:
            async with AsyncClient(url) as client:
                return await client.classify(checks.picture, **asked)

        with checks.check(f"{wire} asyncio"):
            same_classes(checks, asyncio.run(classify()))
    with checks.check("stream"), Client(f"grpc://{checks.grpc}") as client:
        for answer in client.stream([checks.picture] * 3, **asked):
            same_classes(checks, answer)
    checks.finish()


if __name__ == "__main__":
    main()
