"""What is published about trained EfficientNets: checkpoints, how they were evaluated and how well they do.

Figures are ImageNet-1k validation accuracies in percent at the network's own resolution. B0..B7: the timm
results table (results-imagenet.csv of huggingface/pytorch-image-models), whose checkpoints are the TensorFlow
originals converted. Lite: the EfficientNet-Lite results table (tensorflow/tpu), float models. Downloads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

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

LITE_PREPROCESSING = Preprocessing((127.0, 127.0, 127.0), (128.0, 128.0, 128.0), 0.875)


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
    crop_fraction: float

    @property
    def hub_id(self) -> str:
        """The hub repository that holds `model.safetensors`, in timm's tensor names."""
        return f"timm/tf_efficientnet_{self.member}.{self.tag}"

    @property
    def preprocessing(self) -> Preprocessing:
        """AdvProp networks were trained on inputs from -1 to 1, all others on ImageNet's mean and deviation."""
        if self.tag.startswith("ap_"):
            return Preprocessing(_HALF, _HALF, self.crop_fraction)
        return Preprocessing(_IMAGENET_MEAN, _IMAGENET_STD, self.crop_fraction)


CHECKPOINTS = (
    PublishedCheckpoint("b0", "in1k", 76.542, 93.008, 0.875),
    PublishedCheckpoint("b0", "aa_in1k", 76.882, 93.27, 0.875),
    PublishedCheckpoint("b0", "ap_in1k", 77.1, 93.258, 0.875),
    PublishedCheckpoint("b0", "ns_jft_in1k", 78.68, 94.372, 0.875),
    PublishedCheckpoint("b1", "in1k", 78.546, 94.096, 0.882),
    PublishedCheckpoint("b1", "aa_in1k", 78.84, 94.202, 0.882),
    PublishedCheckpoint("b1", "ap_in1k", 79.288, 94.316, 0.882),
    PublishedCheckpoint("b1", "ns_jft_in1k", 81.388, 95.756, 0.882),
    PublishedCheckpoint("b2", "in1k", 79.612, 94.714, 0.89),
    PublishedCheckpoint("b2", "aa_in1k", 80.074, 94.906, 0.89),
    PublishedCheckpoint("b2", "ap_in1k", 80.3, 95.032, 0.89),
    PublishedCheckpoint("b2", "ns_jft_in1k", 82.412, 96.238, 0.89),
    PublishedCheckpoint("b3", "in1k", 80.878, 95.308, 0.904),
    PublishedCheckpoint("b3", "aa_in1k", 81.648, 95.724, 0.904),
    PublishedCheckpoint("b3", "ap_in1k", 81.842, 95.614, 0.904),
    PublishedCheckpoint("b3", "ns_jft_in1k", 84.054, 96.926, 0.904),
    PublishedCheckpoint("b4", "in1k", 82.598, 96.132, 0.922),
    PublishedCheckpoint("b4", "aa_in1k", 83.04, 96.298, 0.922),
    PublishedCheckpoint("b4", "ap_in1k", 83.246, 96.392, 0.922),
    PublishedCheckpoint("b4", "ns_jft_in1k", 85.156, 97.482, 0.922),
    PublishedCheckpoint("b5", "in1k", 83.17, 96.534, 0.934),
    PublishedCheckpoint("b5", "aa_in1k", 83.696, 96.712, 0.934),
    PublishedCheckpoint("b5", "ra_in1k", 83.834, 96.764, 0.934),
    PublishedCheckpoint("b5", "ap_in1k", 84.258, 96.984, 0.934),
    PublishedCheckpoint("b5", "ns_jft_in1k", 86.096, 97.744, 0.934),
    PublishedCheckpoint("b6", "aa_in1k", 84.124, 96.89, 0.942),
    PublishedCheckpoint("b6", "ap_in1k", 84.794, 97.138, 0.942),
    PublishedCheckpoint("b6", "ns_jft_in1k", 86.476, 97.864, 0.942),
    PublishedCheckpoint("b7", "aa_in1k", 84.424, 96.908, 0.949),
    PublishedCheckpoint("b7", "ra_in1k", 84.926, 97.22, 0.949),
    PublishedCheckpoint("b7", "ap_in1k", 85.132, 97.256, 0.949),
    PublishedCheckpoint("b7", "ns_jft_in1k", 86.85, 98.08, 0.949),
)
LITE_TOP1 = {
    "lite0": 75.1,
    "lite1": 76.7,
    "lite2": 77.6,
    "lite3": 79.8,
    "lite4": 81.5,
}


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
    checkpoint = checkpoints_of(member).get("aa_in1k")
    return checkpoint.preprocessing if checkpoint else LITE_PREPROCESSING


def published_top1(member: str) -> float | None:
    """The best published top-1 of `member` in percent, None if unknown."""
    checkpoint = best_checkpoint(member)
    return checkpoint.top1 if checkpoint else LITE_TOP1.get(member)
