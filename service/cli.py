"""The server's commands: `serve`, `profile`, and `store evaluate` and `calibrate`, which run models as it does.

The options of `serve` and `profile` are made from `Settings` (`setting_options.py`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from model_store.activation_ranges import SCHEMA_VERSION as RANGES_SCHEMA_VERSION
from model_store.cli import Weights, check_members, source_of
from model_store.store_root import default_store_root
from service.configuration import to_toml
from service.profile_report import explain_menu
from service.setting_options import Configuration, fail, with_setting_options
from service.settings import Settings

NS_PER_MS = 1_000_000

_STDERR = 2
_LEAVE_PROGRESS_BAR = "\n\x1b[?25h"
"""Goes below the bar, and shows the cursor that it hides."""

StoreOption = Annotated[Path | None, typer.Option("--store", help="The store's folder.", show_default=False)]

_SERVE_HELP = """Serve the model store over REST and gRPC.

Loads and warms every variant, measures each on this machine (cached per machine, model and runtime), and only
then takes requests. SIGTERM or Ctrl-C drains: no request in service is lost.
"""


# What a profile is of: these decide which points are timed, so that `profile` measures what `serve` will want.
_PROFILE_SETTINGS = ("store", "variants", "allow_untrained", "provider", "workers", "batch_size_max", "cuda_graphs")


def add_server_commands(app: typer.Typer) -> None:
    """Add `serve` and `profile` to the root command."""
    app.command("serve", help=_SERVE_HELP)(serve_command)
    app.command("profile")(with_setting_options(_profile, _PROFILE_SETTINGS))


@contextlib.contextmanager
def _stoppable(before: str, exit_code: int) -> Generator[None]:
    """SIGTERM and Ctrl-C end the process at once, with a line that says `before` what they came, and `exit_code`.

    Without this a container's first process, which has no default for SIGTERM, would ignore it until it is ready.
    The handler raises nothing: an exception in the middle of a decode is taken for a corrupt picture, and one inside
    a callback of a C library is dropped. Nor does it use Python's streams, which may be in the middle of a write.
    """

    def stop(number: int, _frame: object) -> None:
        line = f"phiserve: {signal.Signals(number).name} received before {before}; stopped\n"
        os.write(_STDERR, (_LEAVE_PROGRESS_BAR if os.isatty(_STDERR) else "").encode() + line.encode())
        os._exit(exit_code)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _held_back(number: signal.Signals) -> Generator[None]:
    """The signal waits until somebody who knows what to do with it lets it through; no thread made in here gets it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _exit_under_runs(exit_code: int) -> NoReturn:
    """End the process although workers may be in a run, which nothing can interrupt.

    Taking the interpreter down under a thread that comes back from ONNX Runtime aborts the process, or hangs it.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


@contextlib.contextmanager
def _stages(console: Console) -> Generator[Callable[[str, int, int], None]]:
    """A progress bar for each stage that is reported, in the order in which they begin; nothing without a terminal."""
    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield show


def _serve(
    configuration: Configuration,
    *,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the settings in force as a file for --config, and exit.")
    ] = False,
) -> None:
    settings = configuration.settings
    if print_config:
        typer.echo(to_toml(settings, configuration.origins), nl=False)
        return
    with _held_back(signal.SIGHUP):
        _serve_as(settings)


def _serve_as(settings: Settings) -> None:
    from service.app import StartError, build_server, run_server, take_ports  # noqa: PLC0415 - loads ONNX Runtime and FastAPI
    from service.telemetry.logs import LogFormat, configure_logging  # noqa: PLC0415 - as above

    # What was imported stays: looking for garbage in it stopped all requests for a tenth of a second, now and then.
    gc.freeze()
    configure_logging(level=logging.getLevelName(settings.log_level.upper()), log_format=LogFormat(settings.log_format))

    def announce(url: str, grpc_url: str | None) -> None:
        names = ", ".join(row.variant.name for row in server.engine.variants() if row.routable)
        typer.echo(
            f"phiserve serves {names} on {url}\n"
            f"  curl --data-binary @photo.jpg '{url}/classify?budget_ms=50'\n"
            f"  {url}/docs shows the API, {url}/variants what each budget gets"
            + ("" if grpc_url is None else f"\n  phiserve classify photo.jpg --url {grpc_url}")
        )

    try:
        with take_ports(settings) as ports:
            with _stoppable("the server was ready", exit_code=0), _stages(Console(stderr=True)) as show:
                server = build_server(settings, show)
            all_ended = run_server(server, ports, announce)
    except StartError as error:
        raise fail(str(error)) from error
    if not all_ended:
        _exit_under_runs(0)


def _profile(
    configuration: Configuration,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Measure again, even if the cached profile is current.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also say what the numbers mean for budgets and load.")
    ] = False,
) -> None:
    """Measure every variant on this machine, as `serve` does at its first start, and print the table."""
    from service.app import StartError, profile_store  # noqa: PLC0415 - loads ONNX Runtime
    from service.telemetry.logs import LogFormat, configure_logging  # noqa: PLC0415 - as above

    # Which provider `auto` chose, by which figures, and what of the store is left out: said as `serve` says it.
    settings = configuration.settings
    configure_logging(level=logging.getLevelName(settings.log_level.upper()), log_format=LogFormat(settings.log_format))
    try:
        with _stoppable("the machine was measured", exit_code=1), _stages(Console(stderr=True)) as show:
            measured, menu = profile_store(settings, show, force=force)
    except StartError as error:
        raise fail(str(error)) from error
    console = Console()
    table = Table(
        "variant", "top-1 %", "threads", "batch", "ms", "ms an image", title=f"{measured.machine}, {measured.runtime}"
    )
    for choice in menu.choices:
        top1 = "unknown" if choice.variant.top1 is None else f"{choice.variant.top1:.1f}"
        for point in choice.profile.points:
            ms = point.latency_ns / NS_PER_MS
            cells = (str(choice.threads), str(point.batch_size), f"{ms:.1f}", f"{ms / point.batch_size:.1f}")
            table.add_row(choice.variant.name, top1 if choice.variant.trained else "untrained", *cells)
    console.print(table)
    if explain:
        for line in explain_menu(measured, menu):
            console.print(line)


def evaluate(
    images: Annotated[Path, typer.Option(help="Folder of labelled photographs, named NNN_name.jpg by class index.")],
    variants: Annotated[list[str] | None, typer.Argument(help="Default: all of the store.", show_default=False)] = None,
    *,
    store: StoreOption = None,
    record: Annotated[
        bool, typer.Option(help="Write the figures into the store. A published figure stays the one routed by.")
    ] = False,
    replace_published: Annotated[bool, typer.Option(help="With --record: replace published figures too.")] = False,
) -> None:
    """Measure top-1 and top-5 on labelled photographs, through the same decode, crop and run as a served request."""
    from model_store.builder import record_accuracy  # noqa: PLC0415 - numpy comes with it
    from model_store.catalogue import Catalogue, StoreError  # noqa: PLC0415 - as above
    from model_store.manifest import Accuracy  # noqa: PLC0415 - as above
    from service import evaluation  # noqa: PLC0415 - loads ONNX Runtime
    from service.runtime.session import SessionError  # noqa: PLC0415 - as above

    root = store or default_store_root()
    try:
        catalogue = Catalogue.open(root)
        with _stages(Console(stderr=True)) as show:
            results = evaluation.evaluate(
                catalogue, images, variants, progress=lambda done, total, _label: show("evaluating", done, total)
            )
        table = Table("variant", "trained", "images", "top-1 %", "top-5 %", "published top-1 %")
        for result in results:
            entry = catalogue.entries[result.variant]
            published = entry.manifest.accuracy.top1 if entry.manifest.accuracy.source == "published" else None
            table.add_row(
                result.variant,
                "yes" if entry.variant.trained else "no",
                str(result.images),
                f"{result.top1:.1f}",
                f"{result.top5:.1f}",
                "" if published is None else f"{published:.1f}",
            )
            if record:
                detail = f"evaluated on {result.images} photographs of {images.name}"
                accuracy = Accuracy(result.top1, result.top5, "evaluated", detail, result.images)
                record_accuracy(root, result.variant, accuracy, replace_published=replace_published)
    except (StoreError, SessionError, evaluation.EvaluationError) as error:
        raise fail(str(error)) from error
    Console().print(table)
    for result in results:
        for reason in result.unreadable:
            typer.echo(f"not counted: {reason}", err=True)


def calibrate(
    members: Annotated[list[str], typer.Argument(help="b0 … b7, lite0 … lite4.")],
    *,
    images: Annotated[Path, typer.Option(help="Folder of labelled photographs, named NNN_name.jpg by class index.")],
    out: Annotated[Path, typer.Option(help="File of ranges to write; other members in it stay.")],
    of: Annotated[str, typer.Option(help="What the photographs are, to be recorded.")] = "own photographs",
    weights: Annotated[Weights, typer.Option(help="As for `store build`.")] = Weights.AUTO,
    checkpoint: Annotated[str | None, typer.Option(help="As for `store build`.")] = None,
    seed: Annotated[int, typer.Option(help="As for `store build`.", min=0)] = 0,
) -> None:
    """Measure what int8 needs, and what it loses on photographs it was not calibrated on.

    A few hundred varied photographs are plenty. `store build b0 --precision int8 --ranges FILE` takes the file.
    """
    from model_store.activation_ranges import RangesError, RangesFile, parse_ranges  # noqa: PLC0415 - numpy with it
    from model_store.sources import SourceError  # noqa: PLC0415 - as above
    from service import range_calibration  # noqa: PLC0415 - loads ONNX Runtime
    from service.evaluation import EvaluationError  # noqa: PLC0415 - as above

    check_members(members)
    table = Table("member", "photographs", "fp32 top-1 %", "int8 top-1 %", "same class %", "divergence")
    try:
        found = parse_ranges(out.read_bytes(), str(out)).networks if out.exists() else {}
        for member in members:
            source = source_of(member, weights, checkpoint, seed)
            today = dt.datetime.now(dt.UTC).date().isoformat()
            with _stages(Console(stderr=True)) as show:

                def report(done: int, total: int, _step: str, bar: str = f"calibrating {member}") -> None:
                    show(bar, done, total)

                ranges = range_calibration.calibrate(source, images, of=of, date=today, progress=report)
            found[member], verdict = ranges, ranges.verdict
            out.write_text(RangesFile(RANGES_SCHEMA_VERSION, found).to_json())
            figures = (verdict.top1_fp32, verdict.top1_int8, verdict.agreement)
            table.add_row(member, str(verdict.pictures), *(f"{x:.2f}" for x in figures), f"{verdict.divergence:.4f}")
    except (SourceError, RangesError, EvaluationError, OSError) as error:
        raise fail(str(error)) from error
    Console().print(table)


serve_command = with_setting_options(_serve)
"""The command behind `phiserve serve`, with a flag for every setting."""
