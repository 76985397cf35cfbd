"""Accuracy of built variants on labelled photographs, through the same decode, crop and run as a served request.

Reads a folder of `NNN_name.jpg` files, NNN being the class index. Serves nothing and changes nothing in the store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_store.catalogue import Catalogue
from model_store.manifest import ModelVariant
from service.errors import PhiserveError
from service.runtime.decode import decode_rgb
from service.runtime.image_header import PIXELS_MAX_LIMIT, silence_pillow_warnings
from service.runtime.preprocess import preprocess, shorter_side_px
from service.runtime.providers import Provider, SessionOptions, candidates
from service.runtime.session import Session, available_providers

_FILE_NAME = re.compile(r"(\d+)_.*\.(jpe?g|png|webp)", re.IGNORECASE)
_NAMED_MAX = 10


class EvaluationError(Exception):
    """The folder is not one of labelled photographs. The message names the files and what they should be called."""


@dataclass(frozen=True, slots=True)
class LabelledPhotograph:
    """A photograph and the index of the class it shows."""

    path: Path
    class_index: int


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What one variant reached on `images` photographs: top-1 and top-5 in percent.

    `unreadable` names the files that could not be decoded, each with the reason; they are not counted.
    """

    variant: str
    images: int
    top1: float
    top5: float
    unreadable: tuple[str, ...]


def evaluate(
    catalogue: Catalogue,
    images_dir: Path,
    variants: Sequence[str] | None = None,
    *,
    threads: int = 1,
    provider: Provider = Provider.AUTO,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _label: None,
) -> tuple[EvaluationResult, ...]:
    """Evaluate `variants` (None: all of the catalogue) in the order given.

    `progress` gets (photographs done, photographs in all over all variants, variant).

    Raises:
        EvaluationError: no photographs, a file that is not named `NNN_name.jpg`, a class index that a variant does
            not have, a variant that is not in the catalogue, or no photograph that could be decoded.
        SessionError, StoreError: a graph that cannot be loaded.
    """
    names = list(catalogue.entries) if variants is None else list(variants)
    if unknown := [name for name in names if name not in catalogue.entries]:
        raise EvaluationError(f"the store holds no {', '.join(unknown)}; it holds {', '.join(catalogue.entries)}")
    entries = [catalogue.entries[name] for name in names]
    photographs = list_photographs(images_dir)
    for entry in entries:
        check_classes(entry.variant, photographs)
    silence_pillow_warnings()
    used = candidates(provider, available_providers())[0]
    results = []
    for index, entry in enumerate(entries):
        session = Session(entry.read_model(), entry.variant, SessionOptions(threads, 1), used)

        def report(done: int, before: int = index * len(photographs), label: str = entry.variant.name) -> None:
            progress(before + done, len(entries) * len(photographs), label)

        results.append(_evaluate_one(session, photographs, report))
    return tuple(results)


def list_photographs(images_dir: Path) -> list[LabelledPhotograph]:
    """The labelled photographs of a folder, by name. Hidden files and Markdown are passed over.

    Raises:
        EvaluationError: no such folder, nothing in it, or files that are named otherwise; it names up to ten.
    """
    if not images_dir.is_dir():
        raise EvaluationError(f"{images_dir} is not a folder; give one with photographs named NNN_name.jpg")
    found: list[LabelledPhotograph] = []
    misnamed: list[str] = []
    for path in sorted(images_dir.iterdir()):
        if path.name.startswith(".") or path.suffix == ".md":
            continue
        if match := _FILE_NAME.fullmatch(path.name):
            found.append(LabelledPhotograph(path, int(match[1])))
        else:
            misnamed.append(path.name)
    if misnamed:
        raise EvaluationError(
            f"not named NNN_name.jpg, NNN being the class index: {_some(misnamed)}; rename or remove them"
        )
    if not found:
        raise EvaluationError(f"{images_dir} holds no photographs; they must be named NNN_name.jpg")
    return found


def check_classes(variant: ModelVariant, photographs: Sequence[LabelledPhotograph]) -> None:
    """Refuse photographs of classes that `variant` does not have.

    Raises:
        EvaluationError: it names up to ten of them.
    """
    classes = variant.class_count
    if beyond := [photo.path.name for photo in photographs if photo.class_index >= classes]:
        raise EvaluationError(f"{variant.name} has classes 0 to {classes - 1}; beyond them are {_some(beyond)}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(names[:_NAMED_MAX]) + more


def _evaluate_one(
    session: Session, photographs: list[LabelledPhotograph], report: Callable[[int], None]
) -> EvaluationResult:
    variant = session.variant
    batch = np.empty((1, variant.resolution, variant.resolution, 3), np.uint8)
    first = among_five = 0
    unreadable: list[str] = []
    for done, photo in enumerate(photographs):
        report(done)
        try:
            image = decode_rgb(photo.path.read_bytes(), shorter_side_px(variant), PIXELS_MAX_LIMIT)
        except PhiserveError as error:
            unreadable.append(f"{photo.path.name}: {error.detail}")
            continue
        preprocess(image, variant, batch[0])
        best = [index for index, _ in session.classify(batch, 5)[1][0]]
        first += best[0] == photo.class_index
        among_five += photo.class_index in best
    report(len(photographs))
    counted = len(photographs) - len(unreadable)
    if not counted:
        raise EvaluationError(f"none of the photographs can be decoded: {_some(unreadable)}")
    return EvaluationResult(variant.name, counted, 100 * first / counted, 100 * among_five / counted, tuple(unreadable))
