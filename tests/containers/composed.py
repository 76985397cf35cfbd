"""The compose file's own service and its load, by the real compose."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.containers.engine import NAME, ROOT, Engine, run, say
from tests.containers.server import Server

LOAD_S = 3


def override(variables: dict[str, str]) -> str:
    """What is other than in docker-compose.yml: the network, the ports, and that it stays down once it is."""
    # `!reset` is compose's own word for taking away what a file before has said.
    return (
        "services:\n"
        "  phiserve:\n"
        "    network_mode: host\n"
        "    ports: !reset []\n"
        "    restart: 'no'\n"
        f"    environment: {json.dumps(variables)}\n"
        "  load:\n"
        "    network_mode: host\n"
    )


def run_composed(engine: Engine, compose: str, folder: Path) -> None:
    """Bring the service up, ask it, send it the load profile's traffic, drain it, and take all of it away.

    Raises:
        Failed: anything was not as it must be.
    """
    server = Server.on_free_ports()
    (folder / "override.yml").write_text(override(server.variables))
    files = ("--file", ROOT / "docker-compose.yml", "--file", folder / "override.yml")
    say("compose: the service of docker-compose.yml, and its load")
    with engine.docker_api(folder) as host:

        def composed(*arguments: str) -> str:
            return run(compose, *files, "--project-name", NAME, *arguments, env=os.environ | host)

        try:
            composed("up", "--detach", "--no-build", "phiserve")
            server.check_serves()
            container = composed("ps", "--quiet", "phiserve")
            traffic = ("/photographs", "--url", server.url, "--rate", "10", "--seconds", str(LOAD_S))
            # Without what it depends on, since the engine asks for health only where it has timers.
            counts = composed("--profile", "load", "run", "--rm", "--no-deps", "--no-TTY", "load", *traffic)
            say(f"  load for {LOAD_S} s: {counts.splitlines()[-1]}")
            server.check_drains(lambda: composed("stop", "phiserve"), lambda: engine.exit_status(container))
        finally:
            composed("down", "--volumes")
