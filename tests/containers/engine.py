"""A container engine by its command line, and what is asked of it; knows nothing of what runs in a container."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
IMAGE = "phiserve:cpu"
NAME = "phiserve-image-test"
STOP_TIMEOUT_S = 60
_CONNECTS_MAX = 7  # which httpx spreads over half a minute
_LOG_LINES = 40


class Failed(Exception):
    """Something that was run did not do what it must."""


def say(line: str) -> None:
    """A line of the report, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run to its end; what it printed.

    Raises:
        Failed: it ended with an error.
    """
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if ended.returncode != 0:
        raise Failed(f"{shlex.join(map(str, command))} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    return ended.stdout.strip()


def base_image(dockerfile: str) -> str:
    """What the Dockerfile's stages begin with."""
    (found,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", dockerfile, re.MULTILINE)
    return found


class Engine:
    """docker or podman, by name or path."""

    def __init__(self, command: str) -> None:
        self._command = command

    @property
    def is_podman(self) -> bool:
        return Path(self._command).name == "podman"

    def __call__(self, *arguments: str | Path) -> str:
        """Run one command of it.

        Raises:
            Failed: it ended with an error.
        """
        return run(self._command, *arguments)

    def succeeds(self, *arguments: str | Path) -> bool:
        """Whether one command of it ends without an error."""
        return subprocess.run([self._command, *arguments], capture_output=True, check=False).returncode == 0

    def runs(self) -> bool:
        """Whether it is here, and its daemon too if it needs one."""
        return shutil.which(self._command) is not None and self.succeeds("info")

    def has_base_image(self) -> bool:
        """Whether the Dockerfile's base is here, or can be fetched."""
        base = base_image((ROOT / "Dockerfile").read_text())
        return self.succeeds("image", "inspect", base) or self.succeeds("pull", "--quiet", base)

    def build(self, flags: list[str]) -> None:
        """Build the unmodified Dockerfile, and say how large each image is."""
        started_s = time.monotonic()
        self("build", *flags, "--target", "cpu", "--tag", IMAGE, ROOT)
        base = self._size_mb(base_image((ROOT / "Dockerfile").read_text()))
        say(
            f"build: {IMAGE} in {time.monotonic() - started_s:.0f} s, {self._size_mb(IMAGE)} MB, "
            f"of which {base} MB are its base"
        )

    def _size_mb(self, image: str) -> int:
        return round(int(self("image", "inspect", "--format", "{{.Size}}", image)) / 1e6)

    def exit_status(self, container: str) -> int:
        """What its process ended with."""
        return int(self("inspect", "--format", "{{.State.ExitCode}}", container))

    def log(self, container: str) -> str:
        """The last lines of what it wrote, on both streams."""
        command = [self._command, "logs", "--tail", str(_LOG_LINES), container]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout

    @contextlib.contextmanager
    def docker_api(self, folder: Path) -> Iterator[dict[str, str]]:
        """The variables by which docker's own clients find it; podman serves that interface while the block lasts.

        Raises:
            Failed: podman does not serve it.
        """
        if not self.is_podman:
            yield {}
            return
        socket = folder / "podman.sock"
        with (folder / "podman.log").open("w") as log:
            command = [self._command, "system", "service", "--time=0", f"unix://{socket}"]
            service = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                _ping(socket)
                yield {"DOCKER_HOST": f"unix://{socket}"}
            finally:
                service.terminate()
                service.wait()


def _ping(socket: Path) -> None:
    """Ask the engine whether it is there, again at growing intervals until it is."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket), retries=_CONNECTS_MAX)) as client:
        try:
            client.get("http://engine/_ping").raise_for_status()
        except httpx.HTTPError as error:
            raise Failed(f"podman does not serve docker's interface on {socket}: {error}") from error
