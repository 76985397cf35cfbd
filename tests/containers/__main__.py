"""The image as a container engine runs it: `make image-test [DOCKER=podman] [BUILD_FLAGS="…"]`.

Builds the Dockerfile as it is, runs the image by itself, the compose file's service and the Deployment of the CPU
overlay, asks each over both wires and drains it. What this machine has no engine, no base image or no tool for is
named and skipped; whatever is run and does not do what it must fails the whole.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from tests.containers.composed import run_composed
from tests.containers.engine import Engine, Failed, say
from tests.containers.played import run_played
from tests.containers.restricted import run_restricted


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.containers", description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="docker", help="docker or podman")
    parser.add_argument("--build-flags", default="", help="further flags of the build, as one word")
    return parser.parse_args(arguments)


def run_all(engine: Engine, build_flags: list[str]) -> None:
    """Everything that this machine has the tools for.

    Raises:
        Failed: something was run and did not do what it must.
    """
    engine.build(build_flags)
    run_restricted(engine)
    with tempfile.TemporaryDirectory() as folder:
        if compose := shutil.which("docker-compose"):
            run_composed(engine, compose, Path(folder))
        else:
            say("skipped: the compose file, since docker-compose is not on the path")
        kubectl = shutil.which("kubectl")
        if engine.is_podman and kubectl:
            run_played(engine, kubectl, Path(folder))
        else:
            say("skipped: the Deployment, since only podman plays one, and kubectl builds it")


def main() -> int:
    """Skip, pass or fail."""
    options = parse(sys.argv[1:])
    engine = Engine(options.engine)
    if not engine.runs():
        say(f"skipped: all of it, since {options.engine} is not on the path or does not run here; see DOCKER=podman")
        return 0
    if not engine.has_base_image():
        say("skipped: all of it, since the Dockerfile's base image is not here and cannot be fetched")
        return 0
    try:
        run_all(engine, shlex.split(options.build_flags))
    except Failed as error:
        say(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
