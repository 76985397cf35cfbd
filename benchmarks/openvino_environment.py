"""The environment that OpenVINO has to itself, since its package takes the place of `onnxruntime`: `.venv-openvino`.

Made when it is missing or its requirements have changed. Measures nothing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
VENV = ROOT / ".venv-openvino"
REQUIREMENTS = Path(__file__).parent / "openvino-requirements.txt"


class EnvironmentFailed(Exception):
    """OpenVINO could not be installed. The message is what pip wrote."""


def python() -> Path:
    """The interpreter of that environment, with phiserve and OpenVINO's ONNX Runtime.

    Raises:
        EnvironmentFailed: no network, or no release for this platform.
    """
    interpreter, done = VENV / "bin" / "python", VENV / ".installed"
    if done.exists() and done.read_text() == REQUIREMENTS.read_text():
        return interpreter
    print(f"installing OpenVINO into {VENV.relative_to(ROOT)}", flush=True)
    _run([sys.executable, "-m", "venv", str(VENV)])
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--requirement", str(REQUIREMENTS)])
    done.write_text(REQUIREMENTS.read_text())
    return interpreter


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentFailed(done.stderr[-2000:])
