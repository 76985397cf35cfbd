"""Measures the activation ranges of a network on labelled photographs, and what int8 with them loses on others.

Photographs pass the same decode, crop and resize as a served request. They are split in two by order of name, every
other one; each half is judged by the int8 graph whose ranges come from the other half, so that no photograph is judged
by ranges it helped to measure. The ranges that are kept come from all. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_store.activation_ranges import ActivationRanges, Measurement, Verdict
from model_store.builder import BuildRequest, FloatNetwork, build_float, build_int8, model_variant
from model_store.expected_inputs import expected_inputs
from model_store.manifest import ModelVariant
from model_store.quantize import measured_tensors, with_extremes
from model_store.sources import WeightsSource
from service.errors import PhiserveError
from service.evaluation import EvaluationError, LabelledPhotograph, check_classes, list_photographs
from service.runtime.decode import decode_rgb
from service.runtime.image_header import PIXELS_MAX_LIMIT, silence_pillow_warnings
from service.runtime.preprocess import preprocess, shorter_side_px
from service.runtime.providers import Provider, SessionOptions
from service.runtime.rgb_image import Pixels, RgbImage
from service.runtime.session import Session, open_graph, runtime_name

QUANTILE = 0.95
"""Of the pictures' own extremes: what only one picture in twenty exceeds is cut off. The largest value of all makes the
grid coarser for every picture for the sake of one, and grows with the number of pictures."""

METHOD = "95 % quantile, over pictures, of each picture's lowest and highest value"

VIEWS = 10
"""Of each photograph that is judged: the middle and four corners, each mirrored too."""

_CUT = 0.08
"""Share of width and height that a corner view leaves off."""

_PASSES = 3
"""Each photograph is measured, and judged in fp32 and in int8."""


@dataclass(frozen=True, slots=True)
class _Answers:
    """Probabilities [photographs, views, classes] and whether the best class was the right one [photographs, views]."""

    probabilities: npt.NDArray[np.float32]
    right: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Extremes:
    """Lowest and highest value of each tensor in each picture [pictures, tensors]."""

    tensors: tuple[str, ...]
    lows: npt.NDArray[np.float32]
    highs: npt.NDArray[np.float32]

    def ranges(self, pictures: slice) -> dict[str, tuple[float, ...]]:
        """By tensor, over the chosen pictures; to six digits, which is finer than any grid."""
        lows = np.quantile(self.lows[pictures], 1 - QUANTILE, axis=0)
        highs = np.quantile(self.highs[pictures], QUANTILE, axis=0)
        return {
            tensor: (float(f"{low:.6g}"), float(f"{high:.6g}"))
            for tensor, low, high in zip(self.tensors, lows, highs, strict=True)
        }


def calibrate(
    source: WeightsSource,
    images_dir: Path,
    *,
    of: str,
    date: str,
    threads: int = 1,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _label: None,
) -> ActivationRanges:
    """Ranges for the network of `source`, from the photographs `NNN_name.jpg` in `images_dir`.

    `of` says what they show and `date` when this was; both are only recorded. `progress` gets (photographs done,
    photographs in all over all passes, what is being done).

    Raises:
        EvaluationError: fewer than two photographs, or one that cannot be decoded, is misnamed, or of a class that the
            network does not have.
        SourceError: weights that cannot be had or do not fit.
    """
    photographs = list_photographs(images_dir)
    variant = model_variant(BuildRequest(source.facts.member, source))
    check_classes(variant, photographs)
    if len(photographs) < 2:
        raise EvaluationError(f"{images_dir} holds one photograph; it takes one to measure and another to judge by")
    silence_pillow_warnings()
    network = build_float(source)
    steps = _steps(_PASSES * len(photographs), progress)
    extremes = _measure(network, variant, photographs, threads, steps)
    measurement = Measurement(len(photographs), of, METHOD, runtime_name(Provider.CPU), date)
    measured = ActivationRanges(
        network.loaded.provenance.weights_sha256, measurement, _UNJUDGED, extremes.ranges(slice(None))
    )
    halves = (slice(0, None, 2), slice(1, None, 2))
    exact: list[_Answers] = []
    int8: list[_Answers] = []
    for own, other in (halves, halves[::-1]):
        half, unseen = photographs[own], replace(measured, ranges=extremes.ranges(other))
        for graph, answers, label in (
            (network.graph, exact, "judging fp32"),
            (build_int8(source, network, unseen), int8, "judging int8"),
        ):
            session = Session(graph.SerializeToString(), variant, SessionOptions(threads, VIEWS))
            answers.append(_judge(session, half, partial(steps, label)))
    return replace(measured, verdict=_verdict(exact, int8))


_UNJUDGED = Verdict(1, 1, "not judged yet", 0, 0, 0, 0)


def _steps(total: int, progress: Callable[[int, int, str], None]) -> Callable[[str], None]:
    """Reports one more photograph with each call."""
    done = 0

    def step(label: str) -> None:
        nonlocal done
        progress(done, total, label)
        done += 1

    return step


def _measure(
    network: FloatNetwork,
    variant: ModelVariant,
    photographs: Sequence[LabelledPhotograph],
    threads: int,
    step: Callable[[str], None],
) -> _Extremes:
    tensors = measured_tensors(network.graph, expected_inputs(network.architecture, network.loaded.weights))
    run = open_graph(with_extremes(network.graph, tensors).SerializeToString(), threads)
    lows, highs = (np.empty((len(photographs), len(tensors)), np.float32) for _ in range(2))
    batch = np.empty((1, variant.resolution, variant.resolution, 3), np.uint8)
    for index, photo in enumerate(photographs):
        step("measuring ranges")
        preprocess(_decode(photo, variant), variant, batch[0])
        outputs = run(batch)
        lows[index] = [outputs[f"{tensor}.low"][0] for tensor in tensors]
        highs[index] = [outputs[f"{tensor}.high"][0] for tensor in tensors]
    return _Extremes(tensors, lows, highs)


def _judge(session: Session, photographs: Sequence[LabelledPhotograph], step: Callable[[], None]) -> _Answers:
    variant = session.variant
    probabilities = np.empty((len(photographs), VIEWS, variant.class_count), np.float32)
    batch = np.empty((VIEWS, variant.resolution, variant.resolution, 3), np.uint8)
    for index, photo in enumerate(photographs):
        step()
        for row, view in zip(batch, _views(_decode(photo, variant), variant), strict=True):
            row[...] = view
        probabilities[index] = session.run(batch)
    classes = np.array([photo.class_index for photo in photographs])
    return _Answers(probabilities, probabilities.argmax(axis=2) == classes[:, None])


def _decode(photo: LabelledPhotograph, variant: ModelVariant) -> RgbImage:
    try:
        return decode_rgb(photo.path.read_bytes(), shorter_side_px(variant), PIXELS_MAX_LIMIT)
    except PhiserveError as error:
        raise EvaluationError(f"{photo.path.name}: {error.detail}; remove it") from error


def _views(image: RgbImage, variant: ModelVariant) -> Iterator[Pixels]:
    """The network's inputs uint8 [side, side, 3]: the usual crop of the picture and of its corners; then mirrored."""
    right, lower = int(_CUT * image.width), int(_CUT * image.height)
    corners = [(left, upper) for left in (0, right) for upper in (0, lower)]
    pixels = np.empty((variant.resolution, variant.resolution, 3), np.uint8)
    cut = [image.pixels[y : image.height - lower + y, x : image.width - right + x] for x, y in corners]
    for view in (image.pixels, *cut):
        preprocess(RgbImage(view), variant, pixels)
        yield pixels
        yield pixels[:, ::-1]


def _verdict(exact: Sequence[_Answers], int8: Sequence[_Answers]) -> Verdict:
    """What int8 did beside fp32, over all photographs of both halves."""
    p, q = (np.concatenate([half.probabilities for half in halves]) for halves in (exact, int8))
    right, right_int8 = (np.concatenate([half.right for half in halves]) for halves in (exact, int8))
    tiny = np.finfo(np.float32).tiny
    divergence = (p * (np.log(p + tiny) - np.log(q + tiny))).sum(axis=2).mean()
    return Verdict(
        pictures=len(p),
        views=VIEWS,
        how="each half of the photographs by ranges from the other half; middle and corners, mirrored too",
        top1_fp32=round(100 * float(right.mean()), 2),
        top1_int8=round(100 * float(right_int8.mean()), 2),
        agreement=round(100 * float((p.argmax(axis=2) == q.argmax(axis=2)).mean()), 2),
        divergence=float(f"{max(0.0, float(divergence)):.3g}"),
    )
