"""One contestant up and serving one variant on loopback, known to answer a photograph with its class."""

from __future__ import annotations

import contextlib
import http.client
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import environments
from benchmarks.peers.contestants import Contestant, Setting
from benchmarks.peers.photographs import Bodies
from benchmarks.peers.process_tree import ProcessTree, started
from model_store.catalogue import Catalogue

START_TIMEOUT_S = 180
EXPECTED = "espresso"
"""A word of the first photograph's right answer."""

_LOOK_S = 0.2


class ContestantFailed(Exception):
    """It did not start, or does not answer as it should. The message is what it wrote."""


@dataclass(frozen=True, slots=True)
class Running:
    """A contestant that is up: where photographs are posted, and its processes."""

    url: str
    tree: ProcessTree


@contextlib.contextmanager
def serving(contestant: Contestant, setting: Setting, store: Path, variant: str, bodies: Bodies) -> Iterator[Running]:
    """Start it; every process of it has ended when the block is left.

    Raises:
        ContestantFailed: see the class.
    """
    programs = environments.ready(contestant)
    port, metrics = _free_ports()
    places = {"bin": programs, "port": port, "metrics": metrics, "store": store, "variant": variant}
    command = [word.format_map(places) for word in (*contestant.command, *setting.flags)]
    environment = environments.variables(programs) | {
        "PEER_PORT": str(port),
        "PEER_METRICS_PORT": str(metrics),
        "PEER_MODEL": str(Catalogue.open(store, only=[variant]).entries[variant].folder),
        **setting.environment,
    }
    path = contestant.path.format_map(places)
    with tempfile.TemporaryFile() as log, started(command, environment, log, environments.ROOT) as tree:
        try:
            _wait_until_it_answers(tree, port, path, bodies)
        except ContestantFailed as error:
            log.seek(0)
            written = log.read().decode(errors="replace")[-3000:]
            raise ContestantFailed(f"{contestant.title}, {setting.name}: {error}\n{written}") from error
        yield Running(f"http://127.0.0.1:{port}{path}", tree)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        for listening in (first, second):
            listening.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _wait_until_it_answers(tree: ProcessTree, port: int, path: str, bodies: Bodies) -> None:
    body = next(file for file in bodies.files if EXPECTED in file.name).read_bytes()
    ends_s = time.monotonic() + START_TIMEOUT_S
    last = "nothing listened"
    while time.monotonic() < ends_s:
        if tree.leader.poll() is not None:
            raise ContestantFailed(f"ended with code {tree.leader.returncode}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT_S)
            with contextlib.closing(connection):
                connection.request("POST", path, body, dict(bodies.headers))
                answer = connection.getresponse()
                text = answer.read().decode(errors="replace")
            if answer.status == 200:
                if EXPECTED not in text:
                    raise ContestantFailed(f"a photograph of an {EXPECTED} was answered with {text[:500]}")
                return
            last = f"{answer.status} {text[:500]}"
        time.sleep(_LOOK_S)
    raise ContestantFailed(f"did not answer within {START_TIMEOUT_S} s; last: {last}")
