"""One container by itself, as restricted as it can be: no capability, not root, nothing to write to but /tmp."""

from __future__ import annotations

from tests.containers.engine import IMAGE, NAME, STOP_TIMEOUT_S, Engine, Failed, say
from tests.containers.server import Server

USER_ID = "10001"
_UNWRITABLE = ("/", "/var/lib/phiserve/store", "/var/lib/phiserve/store/profiles")
_NO_TOOLS = ("cc", "gcc", "make", "git")


def run_restricted(engine: Engine) -> None:
    """Start it, ask it, look around in it, drain it.

    Raises:
        Failed: anything was not as it must be.
    """
    server = Server.on_free_ports()
    restrictions = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp", "--memory=2g")
    variables = [f"--env={name}={value}" for name, value in server.variables.items()]
    say("container: read-only root, no capabilities, 2 GiB")
    engine("run", "--detach", "--name", NAME, "--network=host", *restrictions, *variables, IMAGE)
    try:
        server.check_serves()
        _check_inside(engine)
        server.check_drains(
            lambda: engine("stop", "--time", str(STOP_TIMEOUT_S), NAME), lambda: engine.exit_status(NAME)
        )
    except Exception:
        say(engine.log(NAME))
        raise
    finally:
        engine("rm", "--force", NAME)


def _check_inside(engine: Engine) -> None:
    if (user := engine("exec", NAME, "id", "-u")) != USER_ID:
        raise Failed(f"it runs as {user}, not as {USER_ID}")
    for folder in _UNWRITABLE:
        if engine.succeeds("exec", NAME, "touch", f"{folder}/new"):
            raise Failed(f"{folder} can be written to")
    for tool in _NO_TOOLS:
        if engine.succeeds("exec", NAME, "which", tool):
            raise Failed(f"{tool} is in the image")
    engine("exec", NAME, "python", "/usr/local/lib/phiserve/healthcheck.py")
    say(f"  user {USER_ID}, writes nowhere, no compiler in it, its health check passes")
