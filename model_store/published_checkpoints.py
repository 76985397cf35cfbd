"""What is published about trained EfficientNets: checkpoints, how they were evaluated and how well they do.

Figures are ImageNet-1k validation accuracies in percent at the network's own resolution. B0..B7: the timm
results table (results-imagenet.csv of huggingface/pytorch-image-models), whose checkpoints are the TensorFlow
originals converted. Figures of the Lite members are in `compound_scaling.py`. Downloads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from model_store.compound_scaling import released
from model_store.manifest import Interpolation

CHECKPOINTS_SOURCE = "timm results table, ImageNet-1k validation"
LITE_SOURCE = "EfficientNet-Lite results table (tensorflow/tpu), float model, ImageNet-1k validation"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes the network's input: `(channel - mean) / std` per RGB channel, in units of 0..255.

    `crop_fraction` of the shorter side is kept by the centre crop, then resized by `interpolation`.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_fraction: float
    interpolation: Interpolation = "bicubic"


_IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
_HALF = (0.5 * 255, 0.5 * 255, 0.5 * 255)
_LITE_MEAN = (127.0, 127.0, 127.0)
_LITE_STD = (128.0, 128.0, 128.0)


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint:
    """Trained weights of one member on the Hugging Face hub. `tag` names the training recipe.

    in1k: plain; aa: AutoAugment; ra: RandAugment; ap: AdvProp; ns_jft: Noisy Student, which also learnt from
    unlabelled JFT pictures.
    """

    member: str
    tag: str
    top1: float
    top5: float

    @property
    def hub_id(self) -> str:
        """The hub repository that holds `model.safetensors`, in timm's tensor names."""
        return f"timm/tf_efficientnet_{self.member}.{self.tag}"

    @property
    def preprocessing(self) -> Preprocessing:
        """AdvProp networks were trained on inputs from -1 to 1, all others on ImageNet's mean and deviation."""
        crop_fraction = released(self.member).crop_fraction
        if self.tag.startswith("ap_"):
            return Preprocessing(_HALF, _HALF, crop_fraction)
        return Preprocessing(_IMAGENET_MEAN, _IMAGENET_STD, crop_fraction)


CHECKPOINTS = (
    PublishedCheckpoint("b0", "in1k", 76.542, 93.008),
    PublishedCheckpoint("b0", "aa_in1k", 76.882, 93.27),
    PublishedCheckpoint("b0", "ap_in1k", 77.1, 93.258),
    PublishedCheckpoint("b0", "ns_jft_in1k", 78.68, 94.372),
    PublishedCheckpoint("b1", "in1k", 78.546, 94.096),
    PublishedCheckpoint("b1", "aa_in1k", 78.84, 94.202),
    PublishedCheckpoint("b1", "ap_in1k", 79.288, 94.316),
    PublishedCheckpoint("b1", "ns_jft_in1k", 81.388, 95.756),
    PublishedCheckpoint("b2", "in1k", 79.612, 94.714),
    PublishedCheckpoint("b2", "aa_in1k", 80.074, 94.906),
    PublishedCheckpoint("b2", "ap_in1k", 80.3, 95.032),
    PublishedCheckpoint("b2", "ns_jft_in1k", 82.412, 96.238),
    PublishedCheckpoint("b3", "in1k", 80.878, 95.308),
    PublishedCheckpoint("b3", "aa_in1k", 81.648, 95.724),
    PublishedCheckpoint("b3", "ap_in1k", 81.842, 95.614),
    PublishedCheckpoint("b3", "ns_jft_in1k", 84.054, 96.926),
    PublishedCheckpoint("b4", "in1k", 82.598, 96.132),
    PublishedCheckpoint("b4", "aa_in1k", 83.04, 96.298),
    PublishedCheckpoint("b4", "ap_in1k", 83.246, 96.392),
    PublishedCheckpoint("b4", "ns_jft_in1k", 85.156, 97.482),
    PublishedCheckpoint("b5", "in1k", 83.17, 96.534),
    PublishedCheckpoint("b5", "aa_in1k", 83.696, 96.712),
    PublishedCheckpoint("b5", "ra_in1k", 83.834, 96.764),
    PublishedCheckpoint("b5", "ap_in1k", 84.258, 96.984),
    PublishedCheckpoint("b5", "ns_jft_in1k", 86.096, 97.744),
    PublishedCheckpoint("b6", "aa_in1k", 84.124, 96.89),
    PublishedCheckpoint("b6", "ap_in1k", 84.794, 97.138),
    PublishedCheckpoint("b6", "ns_jft_in1k", 86.476, 97.864),
    PublishedCheckpoint("b7", "aa_in1k", 84.424, 96.908),
    PublishedCheckpoint("b7", "ra_in1k", 84.926, 97.22),
    PublishedCheckpoint("b7", "ap_in1k", 85.132, 97.256),
    PublishedCheckpoint("b7", "ns_jft_in1k", 86.85, 98.08),
)


def checkpoints_of(member: str) -> dict[str, PublishedCheckpoint]:
    """The published checkpoints of `member` by tag; empty where there are none on the hub (the Lite members)."""
    return {checkpoint.tag: checkpoint for checkpoint in CHECKPOINTS if checkpoint.member == member}


def best_checkpoint(member: str) -> PublishedCheckpoint | None:
    """The most accurate checkpoint of `member`, None if there is none.

    That is Noisy Student for every B member. Latency depends on the architecture alone, so a server loses
    nothing by taking the most accurate weights: its 1.6 to 2.2 points over AdvProp are free.
    """
    return max(checkpoints_of(member).values(), key=lambda checkpoint: checkpoint.top1, default=None)


def default_preprocessing(member: str) -> Preprocessing:
    """How the pictures of `member` are prepared unless its weights say otherwise (own or untrained weights)."""
    scaling = released(member)
    if scaling.family == "lite":
        return Preprocessing(_LITE_MEAN, _LITE_STD, scaling.crop_fraction)
    return Preprocessing(_IMAGENET_MEAN, _IMAGENET_STD, scaling.crop_fraction)


def published_top1(member: str) -> float | None:
    """The best published top-1 of `member` in percent, None if unknown."""
    if checkpoint := best_checkpoint(member):
        return checkpoint.top1
    published = released(member).published
    return published.top1 if published else None


def published_top1_int8(member: str) -> float | None:
    """The published top-1 of `member` in int8 (the Lite release's own quantisation) in percent, None if unknown."""
    published = released(member).published
    return published.top1_int8 if published else None
