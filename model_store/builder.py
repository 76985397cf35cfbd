"""Builds variants: source → weights → graph (→ int8, fp16, bf16) → a version in the store, or none if none is needed.

`build_variant` is a pure function of a source; `build_store` keeps the store up to date with a list of them;
`record_accuracy` puts a measured accuracy into a manifest. All of onnx is imported only when a graph is built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from model_store.activation_ranges import LOSS_POINTS_MAX, ActivationRanges, Verdict, check_fit, check_tensors
from model_store.architecture import Architecture, build_architecture
from model_store.catalogue import Catalogue, CatalogueEntry, StoreError
from model_store.compound_scaling import released
from model_store.manifest import SCHEMA_VERSION, Accuracy, FileDigest, Manifest, ModelVariant, Precision
from model_store.published_checkpoints import LITE_SOURCE, published_top1_int8
from model_store.sources import LoadedWeights, SourceError, WeightsSource
from model_store.store_index import LABELS_FILE, MODEL_FILE
from model_store.store_writer import StoreDisk, StoreWriter, VersionContent, open_writer

if TYPE_CHECKING:
    from model_store.onnx_graph import OnnxGraph

BuildStep = Literal["weights", "graph", "store"]
FloatType = Literal["fp32", "fp16", "bf16"]
ReportStep = Callable[[str, BuildStep], None]
"""Called with a variant's name and the step of its build that begins."""

_MODULES_WITHOUT_EFFECT = frozenset(
    {
        "catalogue.py",
        "cli.py",
        "hub_download.py",
        "latency_profile.py",
        "store_index.py",
        "store_root.py",
        "store_writer.py",
    }
)
"""The code that does not decide what is built. A change to any other module of this package makes every variant
out of date by itself, which a version number would do only if somebody remembered to raise it."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """Build int8 with `ranges`, unless that was measured to cost more than `loss_points_max` points of top-1."""

    ranges: ActivationRanges
    loss_points_max: float = LOSS_POINTS_MAX


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Build `source` as the variant called `variant`: int8 with `quantisation`, else what `float_type` says."""

    variant: str
    source: WeightsSource
    quantisation: Quantisation | None = None
    float_type: FloatType = "fp32"

    def __post_init__(self) -> None:
        """Refuse two precisions at once."""
        if self.float_type != "fp32" and self.quantisation is not None:
            raise ValueError(f"{self.variant} cannot be both int8 and {self.float_type}")

    @property
    def precision(self) -> Precision:
        """Of the weights and of most of what is computed."""
        return self.float_type if self.quantisation is None else "int8"


@dataclass(frozen=True, slots=True)
class FloatNetwork:
    """A source's network in fp32, in memory: what int8 is made from."""

    architecture: Architecture
    loaded: LoadedWeights
    graph: OnnxGraph


@dataclass(frozen=True, slots=True)
class BuildOutcome:
    """What became of a request: the variant as it now is, and whether it had to be built for that."""

    manifest: Manifest
    folder: Path
    built: bool


def build_store(
    root: Path,
    requests: Sequence[BuildRequest],
    *,
    force: bool = False,
    report: ReportStep | None = None,
    disk: StoreDisk | None = None,
) -> tuple[BuildOutcome, ...]:
    """Bring the requested variants of the store at `root` up to date, all of them or, if one fails, none.

    A variant that is whole and was built by the same recipe is left as it is, unless `force`. Other variants
    stay. Killed at any moment, this leaves the old store or the new one.

    Raises:
        SourceError: weights that cannot be had or do not fit.
        RangesError: ranges that are not of these weights, or whose int8 graph loses too much.
        StoreError: another build is running, a variant's name is malformed, or the store cannot be written.
    """
    with open_writer(root, disk) as writer:
        recipes = {request.variant: recipe_sha256(request) for request in requests}
        current = {} if force else _current_entries(root, writer, recipes)
        outcomes = []
        for request in requests:
            if entry := current.get(request.variant):
                outcomes.append(BuildOutcome(entry.manifest, entry.folder, built=False))
                continue
            content = build_variant(request, report)
            (report or _silent)(request.variant, "store")
            outcomes.append(BuildOutcome(content.manifest, writer.add(content), built=True))
        writer.commit()
        writer.clean()
        return tuple(outcomes)


def build_variant(request: BuildRequest, report: ReportStep | None = None) -> VersionContent:
    """Everything one version consists of, in memory. Equal weights, ranges and code give equal bytes.

    Raises:
        SourceError: weights that cannot be had or do not fit.
        RangesError: ranges that are not of these weights, or whose int8 graph loses too much.
    """
    from model_store.onnx_graph import IR_VERSION, OPSET  # noqa: PLC0415 -- as in `build_float`

    facts = request.source.facts
    network = build_float(request.source, lambda step: (report or _silent)(request.variant, step))
    graph = network.graph
    if request.quantisation is not None:
        ranges = request.quantisation.ranges
        check_fit(ranges, network.loaded.provenance.weights_sha256, request.quantisation.loss_points_max)
        graph = build_int8(request.source, network, ranges)
    elif request.float_type == "fp16":
        graph = _build_half(request.variant, network)
    elif request.float_type == "bf16":
        from model_store.bfloat import to_bfloat  # noqa: PLC0415 -- as above

        graph = to_bfloat(network.graph)
    files = {
        MODEL_FILE: graph.SerializeToString(deterministic=True),
        LABELS_FILE: facts.labels.to_json().encode(),
    }
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        variant=model_variant(request),
        accuracy=_accuracy(request),
        provenance=network.loaded.provenance,
        opset=OPSET,
        ir_version=IR_VERSION,
        parameters=network.architecture.parameters,
        flops=network.architecture.flops,
        files={name: FileDigest(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
    )
    return VersionContent(manifest, files, recipe_sha256(request))


def build_float(source: WeightsSource, report: Callable[[BuildStep], None] = lambda _step: None) -> FloatNetwork:
    """Load the weights of `source` and build their fp32 graph.

    Raises:
        SourceError: weights that cannot be had or do not fit.
    """
    from model_store.onnx_graph import (  # noqa: PLC0415 -- onnx takes half a second, an up-to-date store needs none
        Normalisation,
        build_onnx_graph,
    )

    facts = source.facts
    architecture = build_architecture(released(facts.member), class_count=len(facts.labels.labels))
    report("weights")
    loaded = source.load(architecture)
    report("graph")
    normalisation = Normalisation(facts.preprocessing.mean, facts.preprocessing.std)
    return FloatNetwork(architecture, loaded, build_onnx_graph(architecture, loaded.weights, normalisation))


def build_int8(source: WeightsSource, network: FloatNetwork, ranges: ActivationRanges) -> OnnxGraph:
    """The int8 graph of `network`, which was built from `source`.

    Raises:
        RangesError: ranges of other tensors than the network's.
    """
    from model_store.expected_inputs import expected_inputs  # noqa: PLC0415 -- numpy comes with it
    from model_store.onnx_graph import Normalisation  # noqa: PLC0415 -- as in `build_float`
    from model_store.quantize import measured_tensors, quantize  # noqa: PLC0415 -- as above

    expected = expected_inputs(network.architecture, network.loaded.weights)
    check_tensors(ranges, measured_tensors(network.graph, expected))
    preprocessing = source.facts.preprocessing
    return quantize(network.graph, Normalisation(preprocessing.mean, preprocessing.std), ranges.ranges, expected)


def _build_half(variant: str, network: FloatNetwork) -> OnnxGraph:
    from model_store.half_precision import HalfPrecisionError, to_half  # noqa: PLC0415 -- as in `build_float`

    try:
        return to_half(network.graph)
    except HalfPrecisionError as error:
        raise SourceError(f"{variant} cannot be fp16: {error}; build it in fp32") from error


def recipe_sha256(request: BuildRequest) -> str:
    """Stands for everything that decides what `request` builds, known without reading or downloading weights."""
    facts = request.source.facts
    recipe = {
        "variant": request.variant,
        "identity": dict(request.source.identity),
        "member": facts.member,
        "labels": hashlib.sha256(facts.labels.to_json().encode()).hexdigest(),
        "preprocessing": asdict(facts.preprocessing),
        "accuracy": asdict(facts.accuracy),
        "trained": facts.trained,
        "precision": request.precision,
        "ranges": request.quantisation.ranges.sha256 if request.quantisation else None,
        "code": _code_sha256(),
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def record_accuracy(root: Path, variant: str, accuracy: Accuracy, *, replace_published: bool = False) -> Manifest:
    """Make `accuracy` the figure by which `variant` is routed, as a new version of it, and return its manifest.

    A published figure was measured on 50,000 pictures the network never saw; a local one often on few, or on
    some it was trained on. So a published figure gives way only with `replace_published`.

    Raises:
        StoreError: no such variant, an untrained one, or one with a published figure and no `replace_published`.
    """
    with open_writer(root) as writer:
        entry = Catalogue.open(root, only=[variant]).entries[variant]
        if not entry.variant.trained:
            raise StoreError(f"{variant} is untrained: it has no accuracy to record; build it with trained weights")
        if entry.manifest.accuracy.source == "published" and not replace_published:
            raise StoreError(
                f"{variant} is routed by its published top-1 of {entry.manifest.accuracy.top1}; it stays unless you "
                "ask for the measured one to replace it"
            )
        manifest = replace(
            entry.manifest,
            variant=replace(entry.variant, top1=accuracy.top1),
            accuracy=accuracy,
        )
        files = {MODEL_FILE: entry.read_model(), LABELS_FILE: (entry.folder / LABELS_FILE).read_bytes()}
        writer.add(VersionContent(manifest, files, writer.index.variants[variant].recipe_sha256))
        writer.commit()
        return manifest


def model_variant(request: BuildRequest) -> ModelVariant:
    """What core and front ends will see of the variant, known before anything is built."""
    facts = request.source.facts
    return ModelVariant(
        name=request.variant,
        member=facts.member,
        precision=request.precision,
        resolution=released(facts.member).resolution,
        crop_fraction=facts.preprocessing.crop_fraction,
        interpolation=facts.preprocessing.interpolation,
        class_count=len(facts.labels.labels),
        top1=_accuracy(request).top1,
        trained=facts.trained,
    )


def _accuracy(request: BuildRequest) -> Accuracy:
    """The source's figure for fp32, fp16 and bf16; for int8 the lower of the published and what was measured here."""
    exact = request.source.facts.accuracy
    if exact.top1 is not None and request.float_type in _OF_FP32:
        return replace(exact, detail=f"{exact.detail}; {_OF_FP32[request.float_type]}")
    if request.quantisation is None or exact.top1 is None:
        return exact
    verdict = request.quantisation.ranges.verdict
    estimate = round(exact.top1 - max(0.0, verdict.loss_points), 2)
    published = published_top1_int8(request.source.facts.member) if exact.detail == LITE_SOURCE else None
    if published is not None and published <= estimate:
        detail = f"{LITE_SOURCE.replace('float', 'int8')}; {_seen(verdict)}"
        return Accuracy(published, None, "published", detail, None)
    detail = f"{exact.top1:g} ({exact.detail}) less what int8 was measured to lose: {_seen(verdict)}"
    return Accuracy(estimate, None, "evaluated", detail, verdict.pictures)


_OF_FP32: dict[FloatType, str] = {
    "fp16": "of fp32, from which fp16 cannot be told apart",
    "bf16": "of fp32: not measured in bf16",
}
"""How a figure is marked that is not the variant's own."""


def _seen(verdict: Verdict) -> str:
    return (
        f"here int8 scored {verdict.top1_int8 - verdict.top1_fp32:+.2f} points beside fp32 on {verdict.pictures} "
        "photographs that it was not calibrated on"
    )


def _current_entries(root: Path, writer: StoreWriter, recipes: dict[str, str]) -> dict[str, CatalogueEntry]:
    """The wanted variants that are whole on disk and were built by the same recipe."""
    unchanged = {
        name
        for name, recipe in recipes.items()
        if name in writer.index.variants and writer.index.variants[name].recipe_sha256 == recipe
    }
    return {name: entry for name in unchanged if (entry := _open_whole(root, {name})) is not None}


def _open_whole(root: Path, only: Collection[str]) -> CatalogueEntry | None:
    try:
        (entry,) = Catalogue.open(root, only).entries.values()
    except StoreError:
        return None  # damaged: a build is what mends it
    return entry


def _code_sha256() -> str:
    digest = hashlib.sha256()
    for module in sorted(resources.files("model_store").iterdir(), key=lambda entry: entry.name):
        if module.name.endswith(".py") and module.name not in _MODULES_WITHOUT_EFFECT:
            digest.update(module.read_bytes())
    return digest.hexdigest()


def _silent(_variant: str, _step: BuildStep) -> None:
    """Report to nobody."""
