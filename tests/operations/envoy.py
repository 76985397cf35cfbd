"""A real Envoy on the loopback interface, run with `deploy/envoy/envoy.yaml`: only addresses are replaced in it.

It changes no timeout, no health check and no retry of that file, since those are what is tested.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "deploy/envoy/envoy.yaml"
# Where `make ops-test` and `make deploy-check` put their tools.
TOOLS = ROOT / ".venv-deploy/bin"
SERVED_BY = "x-served-by"
"""The header of every answer that names the server behind it; the test adds it, a deployment shows it to nobody."""

_STARTED = "starting workers"
_END_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Address:
    """The two ports of one server on the loopback interface."""

    rest: int
    grpc: int


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def find_envoy() -> str | None:
    """The binary, from the path or from the tools of the deployment."""
    return shutil.which("envoy") or shutil.which("envoy", path=str(TOOLS))


class Proxy:
    """Where the running Envoy listens, and what it says of itself."""

    def __init__(self, listens: Address, admin: int) -> None:
        self.rest_url = f"http://127.0.0.1:{listens.rest}"
        self.grpc_address = f"127.0.0.1:{listens.grpc}"
        self._admin = f"http://127.0.0.1:{admin}"

    def total(self, name: str) -> int:
        """The sum of a statistic over both clusters, such as "upstream_rq_retry"."""
        stats = httpx.get(f"{self._admin}/stats", params={"filter": rf"^cluster\.phiserve-\w+\.{name}$"}).text
        return sum(int(line.rpartition(": ")[2]) for line in stats.splitlines())


def configuration(servers: Sequence[Address], listens: Address, admin: int) -> dict[str, Any]:
    """The deployed configuration, with these addresses in place of names that only a cluster knows."""
    config = yaml.safe_load(CONFIGURATION.read_text())
    config["admin"]["address"]["socket_address"]["port_value"] = admin
    resources = config["static_resources"]
    for listener in resources["listeners"]:
        port = getattr(listens, listener["name"])
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        for host in manager["route_config"]["virtual_hosts"]:
            header = {"key": SERVED_BY, "value": "%UPSTREAM_REMOTE_PORT%"}
            host["response_headers_to_add"] = [{"header": header}]
    for cluster in resources["clusters"]:
        ports = [getattr(server, cluster["name"].removeprefix("phiserve-")) for server in servers]
        endpoints = [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
            for port in ports
        ]
        cluster["type"] = "STATIC"
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]
    return config


@contextlib.contextmanager
def envoy(binary: str, servers: Sequence[Address], folder: Path) -> Iterator[Proxy]:
    """Envoy before `servers`, which must be up, for as long as the block lasts: it has asked each for its health."""
    rest, grpc, admin = free_ports(3)
    listens = Address(rest, grpc)
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(configuration(servers, listens, admin)))
    command = [binary, "--config-path", path, "--disable-hot-restart", "--concurrency", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    seen: list[str] = []
    try:
        for line in process.stderr:
            seen.append(line)
            if _STARTED in line:
                break
        else:
            raise AssertionError("Envoy ended before it served:\n" + "".join(seen))
        reader = threading.Thread(target=seen.extend, args=(process.stderr,))  # or a full pipe would stop it
        reader.start()
        yield Proxy(listens, admin)
    finally:
        process.terminate()
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    reader.join()
    process.stderr.close()
