"""A phiserve in a container, asked as its callers and its orchestrator ask it: ready, right, and drained on SIGTERM."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import yaml

from phiserve import Client
from tests.containers.engine import ROOT, Failed, say
from tests.operations.envoy import free_ports

PHOTOGRAPH = ROOT / "tests/photographs/tabby_cat.jpg"
LABEL = "cat"
"""Tabby or tiger cat: which one is a matter of the variant."""
READY_TIMEOUT_S = 300
DRAIN_NOTICE_S = 4
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def probe_paths() -> dict[str, str]:
    """What the pod's probes ask, by probe."""
    (deployment,) = yaml.safe_load_all((ROOT / "deploy/kubernetes/base/deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {probe: container[probe]["httpGet"]["path"] for probe in _PROBES}


@dataclass(frozen=True, slots=True)
class Server:
    """Where a container serves, on the loopback interface, and when it was asked for (`time.monotonic`)."""

    rest: int
    grpc: int
    started_s: float

    @classmethod
    def on_free_ports(cls) -> Server:
        """One that is about to be started."""
        return cls(*free_ports(2), time.monotonic())

    @property
    def variables(self) -> dict[str, str]:
        """The settings that make it so, in the host's own network: not every engine here can make another."""
        return {
            "PHISERVE_HOST": "127.0.0.1",
            "PHISERVE_PORT": str(self.rest),
            "PHISERVE_GRPC_PORT": str(self.grpc),
            "PHISERVE_DRAIN_NOTICE_S": str(DRAIN_NOTICE_S),
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.rest}"

    def check_serves(self) -> None:
        """Wait until it is ready, then classify a photograph over both wires and ask what the pod's probes ask.

        Raises:
            Failed: another label than the photograph's, or the two wires disagree, or a probe would fail.
        """
        with Client(self.url) as client:
            client.wait_until_ready(READY_TIMEOUT_S)
        say(f"  ready after {time.monotonic() - self.started_s:.1f} s")
        first, second = self._best(self.url), self._best(f"grpc://127.0.0.1:{self.grpc}")
        if LABEL not in first.label or first.index != second.index:
            raise Failed(f"{PHOTOGRAPH.name} is {first} over HTTP and {second} over gRPC")
        for probe, path in probe_paths().items():
            if (status := httpx.get(self.url + path).status_code) != httpx.codes.OK:
                raise Failed(f"the {probe} asks {path}, which says {status}")
        say(f"  HTTP and gRPC say {first.label!r}, and the probes' routes 200; {self._resident_mb()} MB resident")

    def _best(self, url: str) -> Any:
        with Client(url) as client:
            return client.classify(PHOTOGRAPH.read_bytes(), variant="lite0", budget_ms=5000, top_k=1).best

    def _resident_mb(self) -> int:
        page = httpx.get(f"{self.url}/metrics").raise_for_status().text
        (line,) = (line for line in page.splitlines() if line.startswith("process_resident_memory_bytes "))
        return round(float(line.split()[1]) / 1e6)

    def check_drains(self, stop: Callable[[], object], exit_status: Callable[[], int]) -> None:
        """Have it stopped: it must say that it takes nothing new, answer meanwhile, and end by itself.

        Raises:
            Failed: it never said so, or did not answer while it did, or ended otherwise.
        """
        asked_s = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(stop)
            try:
                while httpx.get(self.url + probe_paths()["readinessProbe"]).status_code == httpx.codes.OK:
                    if stopped.done():
                        stopped.result()
                        raise Failed("it ended without having said that it is not ready")
                noticed_s = time.monotonic() - asked_s
                if LABEL not in self._best(self.url).label:
                    raise Failed("it answered wrongly while draining")
            except httpx.TransportError as error:
                raise Failed(f"it closed before its notice was over: {error!r}") from error
            stopped.result()
        if (status := exit_status()) != 0:
            raise Failed(f"it ended with {status} after SIGTERM")
        say(
            f"  SIGTERM: not ready after {noticed_s:.1f} s, still answering, "
            f"ended with 0 after {time.monotonic() - asked_s:.1f} s"
        )
