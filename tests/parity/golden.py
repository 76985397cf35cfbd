"""The fixed case of every member: seeded weights, seeded pictures, and what a reference implementation answered.

`parity.py` writes the golden files, from the reference's logits and never from ours; `test_goldens.py` reads them,
so that the proof holds in `make test` without torch. Runs our graph, knows no reference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from model_store.architecture import Architecture
from model_store.onnx_graph import INPUT_NAME, LOGITS_NAME, Normalisation, build_onnx_graph
from model_store.weights import Weights

GOLDENS = Path(__file__).parent / "goldens"
WEIGHTS_SEED = 20
PICTURE_SEEDS = (1, 2)
"""Of the pictures that parity compares; the golden logits are those of the first."""

RELATIVE_ERROR_MAX = 1e-4
"""Float32 rounding through the deepest network reaches a hundredth of this; wrong padding, epsilon or colours hundreds
of times this."""

NORMALISATION = Normalisation(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
"""ImageNet's, for every member: three different means, so that swapped channels show."""

_CELLS = 9
_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Golden:
    """What `reference` answered for one picture: `logits` [classes], before softmax.

    The digests are of the weights and of the picture that it was given, to tell changed inputs from a wrong network.
    """

    member: str
    reference: str
    torch_version: str
    weights_sha256: str
    picture_sha256: str
    logits: tuple[float, ...]


def picture(side: int, seed: int) -> npt.NDArray[np.uint8]:
    """A seeded RGB picture, uint8 [side, side, 3]: coarse cells of colour under fine noise.

    Noise alone would look the same after a shift by a pixel, which is what wrong padding does. Bit-stable: PCG64 and
    elementary float64 arithmetic only.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    cells = rng.random((_CELLS, _CELLS, 3))
    index = np.arange(side) * _CELLS // side
    return (256 * (0.75 * cells[index][:, index] + 0.25 * rng.random((side, side, 3)))).astype(np.uint8)


def graph_logits(
    architecture: Architecture, weights: Weights, pictures: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """Our graph's logits [batch, classes] for `pictures` [batch, side, side, 3], run by ONNX Runtime on the CPU."""
    model = build_onnx_graph(architecture, weights, NORMALISATION, with_logits=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # one that waits for another spins: half as much time again for one picture
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (logits,) = session.run([LOGITS_NAME], {INPUT_NAME: pictures})
    return np.asarray(logits, np.float32)


def relative_error(found: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Return max |found - reference| / max |reference|; infinite if either holds a value that is not finite.

    Raises:
        ValueError: different shapes.
    """
    ours, theirs = np.asarray(found, np.float64), np.asarray(reference, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"cannot compare logits {list(ours.shape)} with {list(theirs.shape)}")
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf")
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def weights_digest(weights: Mapping[str, npt.NDArray[np.float32]]) -> str:
    """sha256 of every tensor's name and little-endian bytes, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + b"\0")
        digest.update(weights[name].astype("<f4").tobytes())
    return digest.hexdigest()


def picture_digest(pixels: npt.NDArray[np.uint8]) -> str:
    """sha256 of the pixels, row by row."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def write_golden(golden: Golden) -> Path:
    """Write `golden` to its file, logits to eight significant digits."""
    fields = asdict(golden) | {"logits": [float(f"{value:.{_DIGITS}g}") for value in golden.logits]}
    path = GOLDENS / f"{golden.member}.json"
    path.write_text(json.dumps(fields) + "\n")
    return path


def read_golden(member: str) -> Golden:
    """The golden of `member`.

    Raises:
        FileNotFoundError: there is none; `tests/parity/parity.py --write-goldens` writes it.
    """
    fields = json.loads((GOLDENS / f"{member}.json").read_text())
    return Golden(**fields | {"logits": tuple(fields["logits"])})
