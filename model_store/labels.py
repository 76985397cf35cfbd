"""The classes of a network, by index: ImageNet's thousand, or an own list for a fine-tuned one.

Strict: a list that has another length than the network has classes, a blank or a repeated entry is refused,
because it would silently name every answer wrong.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from model_store import strict_json


class LabelsError(ValueError):
    """A labels file that cannot name a network's classes. The message names the line or entry."""


@dataclass(frozen=True, slots=True)
class Label:
    """One class: its index in the network's output, its WordNet id (None for own classes) and its name."""

    index: int
    wnid: str | None
    name: str


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labels for every class index 0..count-1, and where they come from."""

    source: str
    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be right."""
        if not self.labels:
            raise LabelsError("no labels; one per class is needed")
        seen: dict[tuple[str | None, str], int] = {}
        for position, label in enumerate(self.labels):
            if label.index != position:
                raise LabelsError(f"label {position} has index {label.index}; they must count up from 0")
            if not label.name.strip() or label.wnid == "":
                raise LabelsError(f"label {position} is blank")
            # ImageNet has two cranes and two maillots: equal names are two classes only where the wnids differ.
            first = seen.setdefault((label.wnid, label.name), position)
            if first != position:
                raise LabelsError(f"labels {first} and {position} are both {label.name!r}; each class needs its own")
        wnids = [label.wnid for label in self.labels if label.wnid is not None]
        if len(set(wnids)) != len(wnids):
            repeated = next(wnid for wnid in wnids if wnids.count(wnid) > 1)
            raise LabelsError(f"wnid {repeated} names two classes")

    def to_json(self) -> str:
        """Canonical JSON text."""
        return _dumped(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> LabelSet:
        """Parse `to_json`'s text strictly.

        Raises:
            LabelsError: not JSON, a key missing, unknown or mistyped, or labels that cannot be right.
        """
        try:
            return strict_json.loads(cls, text, "labels")
        except strict_json.StrictJsonError as error:
            raise LabelsError(str(error)) from error


@functools.lru_cache(maxsize=2)
def _dumped(labels: LabelSet) -> str:
    """Kept: a build wants the text three times a variant, to compare recipes and to write it."""
    return strict_json.dumps(labels)


@functools.cache
def imagenet_labels() -> LabelSet:
    """The 1000 classes of ILSVRC-2012 in the order every published ImageNet-1k network uses (by wnid)."""
    return LabelSet.from_json(resources.files("model_store").joinpath("data/imagenet_labels.json").read_bytes())


def read_labels(path: Path, class_count: int | None = None) -> LabelSet:
    """Read an own list of labels; there must be `class_count`, if given.

    `.txt`: one name a line, or `wnid<TAB>name`, UTF-8. `.json`: a list of names, or of objects with `name` and
    optionally `wnid`.

    Raises:
        LabelsError: unreadable, another count, a blank or repeated entry.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"cannot read the labels file {path}: {error}") from error
    pairs = _pairs_from_json(text, path) if path.suffix == ".json" else _pairs_from_lines(text)
    if class_count is not None and len(pairs) != class_count:
        raise LabelsError(f"{path} has {len(pairs)} labels and the network {class_count} classes; they must agree")
    try:
        return LabelSet(path.name, tuple(Label(index, wnid, name) for index, (wnid, name) in enumerate(pairs)))
    except LabelsError as error:
        raise LabelsError(f"{path}: {error}") from error


def _pairs_from_lines(text: str) -> list[tuple[str | None, str]]:
    pairs: list[tuple[str | None, str]] = []
    for line in text.rstrip("\n").split("\n"):
        wnid, tab, name = line.rstrip("\r").partition("\t")
        pairs.append((wnid.strip(), name.strip()) if tab else (None, wnid.strip()))
    return pairs


def _pairs_from_json(text: str, path: Path) -> list[tuple[str | None, str]]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelsError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list):
        raise LabelsError(f"{path} must hold a JSON list of names or of objects with `name` and `wnid`")
    pairs: list[tuple[str | None, str]] = []
    for index, entry in enumerate(entries):
        match entry:
            case str(name):
                pairs.append((None, name))
            case {"name": str(name), "wnid": str(wnid), **rest} if not rest:
                pairs.append((wnid, name))
            case {"name": str(name), **rest} if rest in ({}, {"wnid": None}):
                pairs.append((None, name))
            case _:
                raise LabelsError(f'{path}: entry {index} must be a name or {{"name": …, "wnid": …}}')
    return pairs
