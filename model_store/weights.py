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
            WeightsError: a tensor is missing, too many, of another shape, or holds a value that is not finite; or a
                variance is negative.
        """
        shapes = architecture.tensor_shapes()
        unexpected = _unexpected({name: array for name, array in tensors.items() if name not in shapes})
        _refuse(_differences(tensors, architecture, {}) + unexpected)
        frozen = {}
        for name in shapes:
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
        WeightsError: neither naming, or what `Weights` refuses. Tensors are named as in `state`.
    """
    prefix, tensors = _without_prefix(state)
    theirs = names(architecture, _recognise(tensors))
    renamed = {theirs[name]: array for name, array in tensors.items() if name in theirs}
    shown = {canonical: prefix + name for name, canonical in theirs.items()}
    lines = _differences(renamed, architecture, shown)
    # Apart from the others: an unknown name of theirs may be a canonical one of ours.
    lines += _unexpected({prefix + name: array for name, array in tensors.items() if name not in theirs})
    _refuse(lines)
    return Weights(renamed, architecture)


def to_state_dict(weights: Weights, architecture: Architecture, naming: Naming) -> dict[str, Tensor]:
    """The tensors under `naming`'s names: the inverse of `from_state_dict`."""
    return {theirs: weights[ours] for theirs, ours in names(architecture, naming).items()}


def names(architecture: Architecture, naming: Naming) -> dict[str, str]:
    """Their name to our canonical name, for every tensor, in the order of the network."""
    ours_to_theirs = dict(_timm_names(architecture) if naming == "timm" else _lukemelas_names(architecture))
    return {ours_to_theirs[ours]: ours for ours in architecture.tensor_shapes()}


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
    found: Mapping[str, npt.NDArray[np.generic]], architecture: Architecture, shown: Mapping[str, str]
) -> list[str]:
    """One line per tensor that is not as it should be; `shown` maps canonical names to those of the caller's file."""
    lines = []
    for name, shape in architecture.tensor_shapes().items():
        label = shown.get(name, name)
        if name not in found:
            lines.append(f"missing {label} {list(shape)}")
        elif found[name].shape != shape:
            hint = _class_hint(name, found[name].shape, shape)
            lines.append(f"{label} has shape {list(found[name].shape)}, expected {list(shape)}{hint}")
        elif not _is_finite(found[name]):
            lines.append(f"{label} holds values that are not finite float32 numbers")
        elif name.endswith(".norm.variance") and (found[name].astype(np.float32) < 0).any():
            lines.append(f"{label} holds negative variances")
    return lines


def _unexpected(tensors: Mapping[str, npt.NDArray[np.generic]]) -> list[str]:
    return [f"unexpected {name} {list(array.shape)}" for name, array in tensors.items()]


def _is_finite(array: npt.NDArray[np.generic]) -> bool:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is found as such
        return bool(np.isfinite(array.astype(np.float32)).all())


def _class_hint(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Says so if nothing but the number of classes differs."""
    if not name.startswith("classifier.") or not found or found[1:] != expected[1:]:
        return ""
    return f" (the weights have {found[0]} classes, the labels name {expected[0]})"


def _refuse(lines: list[str]) -> None:
    if not lines:
        return
    more = f"; and {len(lines) - _LISTED_MAX} more" if len(lines) > _LISTED_MAX else ""
    raise WeightsError(f"the weights do not fit the architecture: {'; '.join(lines[:_LISTED_MAX])}{more}")


def _norm(ours: Conv, theirs: str) -> Iterator[tuple[str, str]]:
    for their_part, our_part in _NORM_PARTS.items():
        yield f"{ours.name}.norm.{our_part}", f"{theirs}.{their_part}"


def _conv(ours: Conv, theirs: str, norm: str) -> Iterator[tuple[str, str]]:
    yield f"{ours.name}.weight", f"{theirs}.weight"
    yield from _norm(ours, norm)


def _squeeze(block: Block, reduce: str, expand: str) -> Iterator[tuple[str, str]]:
    if block.squeeze_excite is not None:
        for part in ("weight", "bias"):
            yield f"{block.squeeze_excite.name}.reduce.{part}", f"{reduce}.{part}"
            yield f"{block.squeeze_excite.name}.expand.{part}", f"{expand}.{part}"


def _timm_names(architecture: Architecture) -> Iterator[tuple[str, str]]:
    """Our name and theirs of each tensor."""
    yield from _conv(architecture.stem, "conv_stem", "bn1")
    for stage, blocks in enumerate(architecture.stages):
        for index, block in enumerate(blocks):
            at = f"blocks.{stage}.{index}"
            # Without an expansion, timm has a block of another class, which counts its parts from the depthwise on.
            convs = ("conv_dw", "conv_pw") if block.expand is None else ("conv_pw", "conv_dw", "conv_pwl")
            for number, (ours, theirs) in enumerate(zip(block.convs, convs, strict=True), start=1):
                yield from _conv(ours, f"{at}.{theirs}", f"{at}.bn{number}")
            yield from _squeeze(block, f"{at}.se.conv_reduce", f"{at}.se.conv_expand")
    yield from _conv(architecture.head, "conv_head", "bn2")
    yield from ((f"classifier.{part}", f"classifier.{part}") for part in ("weight", "bias"))


def _lukemelas_names(architecture: Architecture) -> Iterator[tuple[str, str]]:
    """Our name and theirs of each tensor."""
    yield from _conv(architecture.stem, "_conv_stem", "_bn0")
    for index, block in enumerate(architecture.blocks):
        at = f"_blocks.{index}"
        if block.expand is not None:
            yield from _conv(block.expand, f"{at}._expand_conv", f"{at}._bn0")
        yield from _conv(block.depthwise, f"{at}._depthwise_conv", f"{at}._bn1")
        yield from _squeeze(block, f"{at}._se_reduce", f"{at}._se_expand")
        yield from _conv(block.project, f"{at}._project_conv", f"{at}._bn2")
    yield from _conv(architecture.head, "_conv_head", "_bn1")
    yield from ((f"classifier.{part}", f"_fc.{part}") for part in ("weight", "bias"))
