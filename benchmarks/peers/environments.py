"""A virtual environment for each peer, from its pinned requirements: `.venv-peers/NAME`, made when it is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.contestants import PHISERVE, Contestant

ROOT = Path(__file__).parent.parent.parent
VENVS = ROOT / ".venv-peers"
REQUIREMENTS = Path(__file__).parent / "requirements"

_VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


class EnvironmentFailed(Exception):
    """A peer's requirements could not be installed. The message is what pip wrote."""


def ready(contestant: Contestant) -> Path:
    """The folder of the contestant's programs; installs what its requirements ask for if they have changed.

    Raises:
        EnvironmentFailed: no network, or no release for this platform.
    """
    if contestant.name == PHISERVE:
        return Path(sys.executable).parent
    venv = VENVS / contestant.name
    requirements = REQUIREMENTS / f"{contestant.name}.txt"
    done = venv / ".installed"
    if done.exists() and done.read_text() == requirements.read_text():
        return venv / "bin"
    print(f"installing {contestant.title} into {venv.relative_to(ROOT)}", flush=True)
    _run([sys.executable, "-m", "venv", str(venv)], contestant)
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--requirement", str(requirements)], contestant)
    done.write_text(requirements.read_text())
    return venv / "bin"


def _run(command: list[str], contestant: Contestant) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentFailed(f"{contestant.title} cannot be installed: {done.stderr[-2000:]}")


def versions(contestant: Contestant, programs: Path) -> str:
    """What is installed there, of what matters for speed."""
    command = [str(programs / "python"), "-c", _VERSIONS, *contestant.packages]
    found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return ", ".join(f"{name} {version}" for name, version in found.items())


def variables(programs: Path) -> dict[str, str]:
    """What every server starts with: this process's variables, without settings of any server under test."""
    settings = ("PHISERVE_", "PEER_", "RAY_", "BENTOML_", "MOSEC_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    # Neither counts its users for its makers.
    kept |= {"RAY_USAGE_STATS_ENABLED": "0", "BENTOML_DO_NOT_TRACK": "True"}
    # Triton's server loads libpython, which lies beside this interpreter where it is not the system's own.
    libraries = f"{sys.base_prefix}/lib"
    return kept | {"PATH": f"{programs}:{kept['PATH']}", "PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": libraries}
