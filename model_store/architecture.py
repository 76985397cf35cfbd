"""An EfficientNet as plain data: stem, inverted-bottleneck blocks, head; with its parameters and FLOPs counted.

Everything that depends on a member's scaling is decided here, once; `onnx_graph.py` only translates. Holds shapes,
never weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from model_store.compound_scaling import Scaling, round_filters, round_repeats

Activation = Literal["swish", "relu6"]

BATCH_NORM_EPSILON = 1e-3
STEM_CHANNELS, STEM_KERNEL, STEM_STRIDE = 32, 3, 2
HEAD_CHANNELS = 1280
SQUEEZE_RATIO = 0.25
"""Of a block's input channels, not of its expanded ones."""

# The baseline B0 (Tan and Le 2019, table 1): expand ratio, kernel, stride of the first block, channels, repeats.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution without bias, followed by batch norm. `name` is the canonical prefix of its tensors.

    `in_side` is the side of its square input in pixels; padding is TensorFlow's SAME.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    groups: int
    in_side: int

    @property
    def out_side(self) -> int:
        """Side of the output in pixels."""
        return -(-self.in_side // self.stride)

    @property
    def padding(self) -> tuple[int, int]:
        """Pixels of padding (before, after) on each axis: SAME puts the odd one after."""
        total = max(0, (self.out_side - 1) * self.stride + self.kernel - self.in_side)
        return total // 2, total - total // 2

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(out, in / groups, kernel, kernel)."""
        return (self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel)

    @property
    def multiply_adds(self) -> int:
        """Of one image."""
        return self.out_side**2 * math.prod(self.weight_shape)


@dataclass(frozen=True, slots=True)
class SqueezeExcite:
    """Two dense layers on the channel means: `channels` to `squeezed` and back."""

    name: str
    channels: int
    squeezed: int


@dataclass(frozen=True, slots=True)
class Block:
    """MBConv: expand (unless the ratio is 1), depthwise, squeeze-excite (unless Lite), project, and a skip."""

    expand: Conv | None
    depthwise: Conv
    squeeze_excite: SqueezeExcite | None
    project: Conv
    has_skip: bool

    @property
    def convs(self) -> tuple[Conv, ...]:
        """Its convolutions, in order."""
        return tuple(conv for conv in (self.expand, self.depthwise, self.project) if conv is not None)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A whole network. `stages` groups the blocks as checkpoints that number stage and block do."""

    scaling: Scaling
    activation: Activation
    stem: Conv
    stages: tuple[tuple[Block, ...], ...]
    head: Conv
    class_count: int

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks, in order."""
        return tuple(block for stage in self.stages for block in stage)

    @property
    def convs(self) -> tuple[Conv, ...]:
        """All convolutions that a batch norm follows, in order."""
        return (self.stem, *(conv for block in self.blocks for conv in block.convs), self.head)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by canonical name, in the order of the network."""
        shapes: dict[str, tuple[int, ...]] = {}
        after = {block.depthwise.name: block.squeeze_excite for block in self.blocks}
        for conv in self.convs:
            shapes[f"{conv.name}.weight"] = conv.weight_shape
            for part in ("gamma", "beta", "mean", "variance"):
                shapes[f"{conv.name}.norm.{part}"] = (conv.out_channels,)
            if (squeeze := after.get(conv.name)) is not None:
                shapes[f"{squeeze.name}.reduce.weight"] = (squeeze.squeezed, squeeze.channels, 1, 1)
                shapes[f"{squeeze.name}.reduce.bias"] = (squeeze.squeezed,)
                shapes[f"{squeeze.name}.expand.weight"] = (squeeze.channels, squeeze.squeezed, 1, 1)
                shapes[f"{squeeze.name}.expand.bias"] = (squeeze.channels,)
        shapes["classifier.weight"] = (self.class_count, self.head.out_channels)
        shapes["classifier.bias"] = (self.class_count,)
        return shapes

    @property
    def parameters(self) -> int:
        """Trainable parameters: all tensors but the batch norms' running statistics."""
        return sum(
            math.prod(shape)
            for name, shape in self.tensor_shapes().items()
            if not name.endswith((".norm.mean", ".norm.variance"))
        )

    @property
    def flops(self) -> int:
        """Multiply-adds of one image in convolutions and dense layers, which is what the paper calls FLOPs."""
        squeezes = [block.squeeze_excite for block in self.blocks if block.squeeze_excite is not None]
        return (
            sum(conv.multiply_adds for conv in self.convs)
            + sum(2 * squeeze.channels * squeeze.squeezed for squeeze in squeezes)
            + self.head.out_channels * self.class_count
        )


def build_architecture(scaling: Scaling, class_count: int = 1000) -> Architecture:
    """The network that `scaling` describes, with `class_count` classes.

    Lite networks drop squeeze-excite, use ReLU6, and leave stem, head and the depth of the first and last stage
    unscaled (the EfficientNet-Lite release notes).

    Raises:
        ValueError: fewer than one class.
    """
    if class_count < 1:
        raise ValueError(f"a network needs at least one class, got {class_count}")
    lite = scaling.family == "lite"
    width = scaling.width_coefficient
    stem_channels = STEM_CHANNELS if lite else round_filters(STEM_CHANNELS, width)
    head_channels = HEAD_CHANNELS if lite else round_filters(HEAD_CHANNELS, width)
    stem = Conv("stem", 3, stem_channels, STEM_KERNEL, STEM_STRIDE, 1, scaling.resolution)
    channels, side = stem_channels, stem.out_side
    stages = []
    for index, (expand, kernel, stride, base_channels, base_repeats) in enumerate(_STAGES):
        fixed_depth = lite and index in (0, len(_STAGES) - 1)
        repeats = base_repeats if fixed_depth else round_repeats(base_repeats, scaling.depth_coefficient)
        out_channels = round_filters(base_channels, width)
        blocks = []
        for repeat in range(repeats):
            block = _block(
                f"stages.{index}.{repeat}",
                channels=channels,
                out_channels=out_channels,
                expand_ratio=expand,
                kernel=kernel,
                stride=stride if repeat == 0 else 1,
                side=side,
                squeeze=not lite,
            )
            blocks.append(block)
            channels, side = out_channels, block.project.out_side
        stages.append(tuple(blocks))
    head = Conv("head", channels, head_channels, 1, 1, 1, side)
    return Architecture(scaling, "relu6" if lite else "swish", stem, tuple(stages), head, class_count)


def _block(
    name: str,
    *,
    channels: int,
    out_channels: int,
    expand_ratio: int,
    kernel: int,
    stride: int,
    side: int,
    squeeze: bool,
) -> Block:
    inner = channels * expand_ratio
    expand = None if expand_ratio == 1 else Conv(f"{name}.expand", channels, inner, 1, 1, 1, side)
    depthwise = Conv(f"{name}.depthwise", inner, inner, kernel, stride, inner, side)
    squeezed = max(1, int(channels * SQUEEZE_RATIO))
    return Block(
        expand=expand,
        depthwise=depthwise,
        squeeze_excite=SqueezeExcite(f"{name}.squeeze_excite", inner, squeezed) if squeeze else None,
        project=Conv(f"{name}.project", inner, out_channels, 1, 1, 1, depthwise.out_side),
        has_skip=stride == 1 and channels == out_channels,
    )
