"""Runs clients that nobody here wrote against a server of its own, each in its own environment: `make interop`.

Fails if any of them differs from `POST /classify`, or cannot do what docs/clients.md says it can. phiserve's own client
runs in each environment beside its host, since whoever moves from one server to another has both for a while.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tests.end_to_end.phiserve_process import serving

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ENVIRONMENTS = ROOT / ".venv-interop"
SCRIPTS = {
    "triton": ("triton_http.py", "triton_grpc.py"),
    "kserve": ("kserve_client.py",),
    "mlserver": ("mlserver_client.py",),
    "reflection": ("reflection_client.py",),
}
OWN_CLIENT = "phiserve_client.py"
SCRIPT_TIMEOUT_S = 300


def environment(name: str) -> Path:
    """The Python of a client's environment, which is made if its requirements, or phiserve's, changed since."""
    folder, requirements = ENVIRONMENTS / name, HERE / "requirements" / f"{name}.txt"
    installed = folder / "installed.txt"
    wanted = requirements.read_text() + (ROOT / "pyproject.toml").read_text()
    if not installed.exists() or installed.read_text() != wanted:
        print(f"installing {name}", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        pip = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        # Resolved together: versions that suit only one of the two would be no answer.
        subprocess.run([*pip, "--requirement", requirements, "--editable", ROOT], check=True)
        installed.write_text(wanted)
    return folder / "bin" / "python"


def snippets() -> list[tuple[str, str]]:
    """The blocks of docs/clients.md that are other clients' Python, with the name of the client's environment."""
    blocks = re.findall(r"^```py\n(.*?)^```$", (ROOT / "docs" / "clients.md").read_text(), re.MULTILINE | re.DOTALL)
    return [(next(name for name in SCRIPTS if name in block), block) for block in blocks]


def run(command: list[str | Path], folder: Path, http: str, grpc: str) -> bool:
    """Run one client in `folder`; what it says is shown, what it complains of only if it failed."""
    addresses = {"INTEROP_HTTP": http, "INTEROP_GRPC": grpc, "PYTHONWARNINGS": "ignore"}
    ended = subprocess.run(
        command, cwd=folder, env=os.environ | addresses, capture_output=True, text=True, check=False,
        timeout=SCRIPT_TIMEOUT_S,
    )  # fmt: skip
    print(ended.stdout, end="", flush=True)
    if ended.returncode:
        print(ended.stderr, f"failed: {' '.join(map(str, command))}", file=sys.stderr)
    return ended.returncode == 0


def run_all(http: str, grpc: str) -> list[bool]:
    """Every client, one after the other, since they share the machine with the server."""
    passed = [run(["bash", HERE / "curl.sh"], ROOT, http, grpc), *run_k6(http, grpc)]
    for name, scripts in SCRIPTS.items():
        python = environment(name)
        passed += [run([python, HERE / script], ROOT, http, grpc) for script in (*scripts, OWN_CLIENT)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "photo.jpg").symlink_to(HERE.parent / "photographs" / "espresso.jpg")
        for name, block in snippets():
            code = block.replace("127.0.0.1:8000", http.removeprefix("http://")).replace("127.0.0.1:8001", grpc)
            print(f"docs/clients.md, {name}: ", end="", flush=True)
            passed.append(run([environment(name), "-c", code], Path(folder), http, grpc))
    return passed


def run_k6(http: str, grpc: str) -> list[bool]:
    """k6, which no package index that is known to be its makers' has: whoever has it on the path runs it."""
    k6 = shutil.which("k6")
    if k6 is None:
        print("k6: left out, since it is not on the path")
        return []
    command = [k6, "run", "--quiet", "--no-usage-report", "--no-summary"]
    addresses = ["-e", f"INTEROP_HTTP={http}", "-e", f"INTEROP_GRPC={grpc}"]
    passed = run([*command, *addresses, HERE / "k6.js"], ROOT, http, grpc)
    print("k6: HTTP raw body, gRPC by reflection" if passed else "k6: failed")
    return [passed]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def main() -> None:
    store = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "model_store" / "artifacts"
    port = free_port()
    with serving("--store", store, "--grpc-port", str(port)) as server:
        passed = run_all(server.url, f"127.0.0.1:{port}")
    print(f"{sum(passed)} of {len(passed)} clients agree")
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
