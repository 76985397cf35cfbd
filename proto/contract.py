"""The wire contract's tools: stubs from the .proto files, and checks of the files themselves.

    python proto/contract.py generate [--out FOLDER]   stubs with type hints, into the packages that import them
    python proto/contract.py check                     style (`buf lint`), and no break of what was released
    python proto/contract.py release                   what there is now is what may not be broken from now on

Works without a network. Tool versions are those of constraints.txt. It never edits a .proto file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent.parent
CONTRACT = ("phiserve/v1/classifier.proto",)
"""What clients rely on. The Open Inference Protocol, in `proto/inference/`, is not ours to change or to style."""
RELEASED = ROOT / "proto" / "released.binpb"
"""The contract as it was released, as a descriptor set: `check` refuses what would break clients of that."""

# Beside the interpreter, since an environment need not be activated for its tools to be used.
TOOLS = Path(sys.executable).parent


def run_protoc(*arguments: str) -> None:
    """protoc, with the files that others import from their own packages.

    Raises:
        SystemExit: it refused a file, and has said why on stderr.
    """
    # google/rpc/status.proto comes with the package whose stubs are used at run time, google/protobuf/ with protoc.
    imported = (files("google.rpc") / ".." / "..", files("grpc_tools") / "_proto")
    if code := protoc.main(["protoc", *(f"--proto_path={path}" for path in imported), *arguments]):
        raise SystemExit(code)


def generate(out: Path) -> None:
    """Write `_pb2.py`, `_pb2.pyi`, `_pb2_grpc.py` and `_pb2_grpc.pyi` of every file below `out`."""
    plugins = [f"--plugin=protoc-gen-{name}={TOOLS / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    outputs = [f"--python_out={out}", f"--grpc_python_out={out}", f"--mypy_out=quiet:{out}"]
    outputs.append(f"--mypy_grpc_out=quiet:{out}")
    run_protoc(f"--proto_path={ROOT / 'proto'}", *plugins, *outputs, *CONTRACT)
    # Where a .proto file is decides from where its stubs are imported: these are the server's alone.
    inference = f"--proto_path=service/frontends/inference={ROOT / 'proto' / 'inference'}"
    run_protoc(inference, *plugins, *outputs, "service/frontends/inference/open_inference.proto")


def write_image(path: Path, *options: str) -> None:
    """Write the contract to `path` as a descriptor set that holds what it imports, too."""
    run_protoc(
        f"--proto_path={ROOT / 'proto'}", "--include_imports", *options, f"--descriptor_set_out={path}", *CONTRACT
    )


def check() -> None:
    """Style, and compatibility with what was released.

    buf is given an image and no folder: it would want to fetch google/rpc/status.proto from its registry.

    Raises:
        SystemExit: buf found something, and has said what.
    """
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "contract.binpb"
        write_image(image, "--include_source_info")
        config = ("--config", str(ROOT / "proto" / "buf.yaml"))
        for command in (("lint", str(image)), ("breaking", str(image), "--against", str(RELEASED))):
            code = subprocess.run([TOOLS / "buf", *command, *config], check=False).returncode
            if code:
                raise SystemExit(code)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("generate", "check", "release"))
    parser.add_argument("--out", type=Path, default=ROOT, help="generate: where the packages are (default: here)")
    given = parser.parse_args()
    if given.command == "generate":
        generate(given.out)
    elif given.command == "check":
        check()
    else:
        write_image(RELEASED)


if __name__ == "__main__":
    main()
