"""The photographs as each contestant takes them: bare, or wrapped into a message of the Open Inference Protocol."""

from __future__ import annotations

import contextlib
import json
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.tensor_names import TENSOR_IN, TENSOR_OUT
from benchmarks.wrk import JPEG

_HEADER_BYTES = 320


@dataclass(frozen=True, slots=True)
class Bodies:
    """Files to post, in turn, with these header fields."""

    files: tuple[Path, ...]
    headers: Mapping[str, str]


@contextlib.contextmanager
def bodies(photographs: Sequence[Path], *, wrapped: bool) -> Iterator[Bodies]:
    """Files that last as long as the block."""
    if not wrapped:
        yield Bodies(tuple(photographs), JPEG)
        return
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        files = []
        for photograph in photographs:
            file = Path(folder) / photograph.name
            file.write_bytes(wrap(photograph.read_bytes()))
            files.append(file)
        length = {"Inference-Header-Content-Length": str(_HEADER_BYTES)}
        yield Bodies(tuple(files), {"Content-Type": "application/octet-stream", **length})


def wrap(photograph: bytes) -> bytes:
    """One photograph as a BYTES tensor of Triton's binary data extension, whose answer is asked for as JSON."""
    header = {
        "inputs": [
            {
                "name": TENSOR_IN,
                "datatype": "BYTES",
                "shape": [1, 1],
                "parameters": {"binary_data_size": 4 + len(photograph)},
            }
        ],
        "outputs": [{"name": TENSOR_OUT, "parameters": {"binary_data": False}}],
    }
    # One length for all, so that one header field tells it.
    text = json.dumps(header).encode().ljust(_HEADER_BYTES)
    assert len(text) == _HEADER_BYTES, f"the header needs {len(text)} bytes"
    return text + struct.pack("<I", len(photograph)) + photograph
