"""Named tensors of a network: checked against its architecture, and translated from other people's names.

Knows two namings, that of timm (also used by `geffnet` and the hub's checkpoints) and that of lukemelas
(`efficientnet-pytorch` and the Lite wheels). Reads no file; `checkpoint.py` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from model_store.architecture import Architecture, Block, Conv
from model_store.untrained_tensors import untrained_tensors

Tensor: TypeAlias = npt.NDArray[np.float32]
Naming = Literal["timm", "lukemelas"]

_NORM_PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "variance"}
_IGNORED_SUFFIX = "num_batches_tracked"
_PREFIXES = ("module.", "model.", "_orig_mod.")
_LISTED_MAX = 12


class WeightsError(ValueError):
    """Tensors that are not those of the architecture. The message names each, with expected and found shape."""


class Weights(Mapping[str, Tensor]):
    """Every tensor of one architecture by canonical name: float32, finite, of the right shape, read-only."""

    def __init__(self, tensors: Mapping[str, npt.NDArray[np.generic]], architecture: Architecture) -> None:
        """Check and freeze `tensors`, whose names are canonical.

        Raises:
            WeightsError: a tensor is missing, too many, of another shape, or holds a value that is not finite.
        """
        _refuse(_differences(tensors, architecture.tensor_shapes(), {}, architecture))
        frozen = {}
        for name in architecture.tensor_shapes():
            array = np.array(tensors[name], dtype=np.float32)
            array.flags.writeable = False
            frozen[name] = array
        self._tensors = MappingProxyType(frozen)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def from_state_dict(state: Mapping[str, npt.NDArray[np.generic]], architecture: Architecture) -> Weights:
    """Weights from a checkpoint's tensors, in timm or lukemelas naming; which of them is recognised by the stem.

    Prefixes that wrappers add (`module.`, `model.`, `_orig_mod.`) are dropped when every tensor has them. Nothing is
    ignored but the batch norms' step counters.

    Raises:
        WeightsError: neither naming, or a tensor is missing, too many, of another shape, or not finite. Tensors are
            named as in `state`.
    """
    prefix, tensors = _without_prefix(state)
    naming = _recognise(tensors)
    theirs = names(architecture, naming)
    unknown = {name: array for name, array in tensors.items() if name not in theirs}
    renamed = {theirs[name]: array for name, array in tensors.items() if name in theirs}
    shown = {canonical: prefix + name for name, canonical in theirs.items()}
    found = {**renamed, **{prefix + name: array for name, array in unknown.items()}}
    _refuse(_differences(found, architecture.tensor_shapes(), shown, architecture))
    return Weights(renamed, architecture)


def to_state_dict(weights: Weights, architecture: Architecture, naming: Naming) -> dict[str, Tensor]:
    """The tensors under `naming`'s names: the inverse of `from_state_dict`."""
    return {theirs: weights[ours] for theirs, ours in names(architecture, naming).items()}


def names(architecture: Architecture, naming: Naming) -> dict[str, str]:
    """Their name to our canonical name, for every tensor, in the order of the network."""
    return _timm_names(architecture) if naming == "timm" else _lukemelas_names(architecture)


def untrained(architecture: Architecture, *, seed: int) -> Weights:
    """Seeded random weights, the same to the bit on every platform, with batch norms that fit them.

    Activations stay in range through B7's 55 blocks, and the scores depend on the picture.
    """
    return Weights(untrained_tensors(architecture, seed), architecture)


def _without_prefix(
    state: Mapping[str, npt.NDArray[np.generic]],
) -> tuple[str, dict[str, npt.NDArray[np.generic]]]:
    tensors = {name: array for name, array in state.items() if name.rpartition(".")[2] != _IGNORED_SUFFIX}
    removed = ""
    while tensors:
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        removed += prefix
        tensors = {name[len(prefix) :]: array for name, array in tensors.items()}
    return removed, tensors


def _recognise(tensors: Mapping[str, object]) -> Naming:
    if "conv_stem.weight" in tensors:
        return "timm"
    if "_conv_stem.weight" in tensors:
        return "lukemelas"
    first = ", ".join(list(tensors)[:3]) or "nothing"
    raise WeightsError(
        "no stem: tensors must be named as timm does (conv_stem.weight, blocks.0.0.conv_dw.weight, …) or as "
        f"efficientnet-pytorch does (_conv_stem.weight, _blocks.0._depthwise_conv.weight, …); found {first}"
    )


def _differences(
    found: Mapping[str, npt.NDArray[np.generic]],
    wanted: Mapping[str, tuple[int, ...]],
    shown: Mapping[str, str],
    architecture: Architecture,
) -> list[str]:
    """One line per tensor that is not as wanted; `shown` maps canonical names to those of the caller's file."""
    lines = []
    for name, shape in wanted.items():
        label = shown.get(name, name)
        if name not in found:
            lines.append(f"missing {label} {list(shape)}")
        elif tuple(found[name].shape) != shape:
            hint = _class_hint(name, found[name].shape, architecture)
            lines.append(f"{label} has shape {list(found[name].shape)}, expected {list(shape)}{hint}")
        elif not _is_finite(found[name]):
            lines.append(f"{label} holds values that are not finite float32 numbers")
        elif name.endswith(".norm.variance") and (found[name].astype(np.float32) < 0).any():
            lines.append(f"{label} holds negative variances")
    lines.extend(f"unexpected {name} {list(found[name].shape)}" for name in found if name not in wanted)
    return lines


def _is_finite(array: npt.NDArray[np.generic]) -> bool:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is found as such
        return bool(np.isfinite(array.astype(np.float32)).all())


def _class_hint(name: str, shape: tuple[int, ...], architecture: Architecture) -> str:
    if not name.startswith("classifier."):
        return ""
    return f" (the weights have {shape[0]} classes, the labels name {architecture.class_count})"


def _refuse(lines: list[str]) -> None:
    if not lines:
        return
    more = f"; and {len(lines) - _LISTED_MAX} more" if len(lines) > _LISTED_MAX else ""
    raise WeightsError(f"the weights do not fit the architecture: {'; '.join(lines[:_LISTED_MAX])}{more}")


def _norm(theirs: str, ours: Conv) -> Iterator[tuple[str, str]]:
    for their_part, our_part in _NORM_PARTS.items():
        yield f"{theirs}.{their_part}", f"{ours.name}.norm.{our_part}"


def _conv(theirs: str, norm: str, ours: Conv) -> Iterator[tuple[str, str]]:
    yield f"{theirs}.weight", f"{ours.name}.weight"
    yield from _norm(norm, ours)


def _squeeze(reduce: str, expand: str, block: Block) -> Iterator[tuple[str, str]]:
    if block.squeeze_excite is not None:
        for part in ("weight", "bias"):
            yield f"{reduce}.{part}", f"{block.squeeze_excite.name}.reduce.{part}"
            yield f"{expand}.{part}", f"{block.squeeze_excite.name}.expand.{part}"


def _timm_names(architecture: Architecture) -> dict[str, str]:
    pairs = list(_conv("conv_stem", "bn1", architecture.stem))
    for stage, blocks in enumerate(architecture.stages):
        for index, block in enumerate(blocks):
            at = f"blocks.{stage}.{index}"
            if block.expand is None:  # timm's DepthwiseSeparableConv
                convs = [("conv_dw", "bn1", block.depthwise), ("conv_pw", "bn2", block.project)]
            else:
                convs = [
                    ("conv_pw", "bn1", block.expand),
                    ("conv_dw", "bn2", block.depthwise),
                    ("conv_pwl", "bn3", block.project),
                ]
            for conv, norm, ours in convs:
                pairs += _conv(f"{at}.{conv}", f"{at}.{norm}", ours)
            pairs += _squeeze(f"{at}.se.conv_reduce", f"{at}.se.conv_expand", block)
    pairs += _conv("conv_head", "bn2", architecture.head)
    pairs += [(f"classifier.{part}", f"classifier.{part}") for part in ("weight", "bias")]
    return dict(pairs)


def _lukemelas_names(architecture: Architecture) -> dict[str, str]:
    pairs = list(_conv("_conv_stem", "_bn0", architecture.stem))
    for index, block in enumerate(architecture.blocks):
        at = f"_blocks.{index}"
        if block.expand is not None:
            pairs += _conv(f"{at}._expand_conv", f"{at}._bn0", block.expand)
        pairs += _conv(f"{at}._depthwise_conv", f"{at}._bn1", block.depthwise)
        pairs += _squeeze(f"{at}._se_reduce", f"{at}._se_expand", block)
        pairs += _conv(f"{at}._project_conv", f"{at}._bn2", block.project)
    pairs += _conv("_conv_head", "_bn1", architecture.head)
    pairs += [(f"_fc.{part}", f"classifier.{part}") for part in ("weight", "bias")]
    return dict(pairs)
