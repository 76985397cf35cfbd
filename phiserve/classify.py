"""`phiserve classify`: send images to a running server and show what it answered.

Translates arguments into calls of the client and results into an exit code; it reads no model and starts no server.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import typer

from phiserve.address import DEFAULT_URL
from phiserve.call_options import CallOptions, OptionArguments
from phiserve.classify_report import Result, ResultTable, counted, json_line, progress_bar
from phiserve.client import CONCURRENCY_MAX, Client
from phiserve.errors import InvalidArgument, InvalidUrl, TransportError
from phiserve.image_arguments import ImageArgument, NoSuchImage, expand
from phiserve.results import Classification

_SOME_FAILED, _NOT_ASKED = 1, 2

Accuracy = Annotated[float | None, typer.Option(help="Only variants of at least this top-1 accuracy, in percent.")]


def classify(
    images: Annotated[list[str], typer.Argument(help="Files, folders, globs, or - for standard input.")],
    *,
    budget_ms: Annotated[float | None, typer.Option(help="Latency budget of each image, in ms.")] = None,
    variant: Annotated[str | None, typer.Option(help="Pin to one variant, such as lite0.")] = None,
    min_accuracy: Accuracy = None,
    target_ms: Annotated[float | None, typer.Option(help="Soft latency target, in ms.")] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 9; higher first among the equally urgent.")] = None,
    on_miss: Annotated[
        Literal["reject", "late"], typer.Option(help="What to do if no variant can make the budget.")
    ] = "reject",
    top_k: Annotated[int, typer.Option(help="How many classes to show.", min=1)] = 3,
    url: Annotated[
        str, typer.Option(help="The server: http://, https://, grpc:// or grpcs://.", envvar="PHISERVE_URL")
    ] = DEFAULT_URL,
    concurrency: Annotated[int, typer.Option(help="Images in work at once.", min=1, max=CONCURRENCY_MAX)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")] = False,
    ca_cert: Annotated[
        Path | None, typer.Option(help="PEM file of the authority to trust.", show_default=False)
    ] = None,
    client_cert: Annotated[Path | None, typer.Option(help="PEM file that says who you are (mTLS).")] = None,
    client_key: Annotated[Path | None, typer.Option(help="PEM file with the key of --client-cert.")] = None,
) -> None:
    """Classify images on a running server.

    Exit code: 0 all answered, 1 some images failed, 2 nothing or not all could be asked (no server, wrong arguments).
    """
    given: OptionArguments = {
        "budget_ms": budget_ms,
        "variant": variant,
        "min_accuracy": min_accuracy,
        "target_ms": target_ms,
        "priority": priority,
        "on_miss": on_miss,
        "top_k": top_k,
    }
    tls: _TlsArguments = {"ca_cert": ca_cert, "client_cert": client_cert, "client_key": client_key}
    arguments = _checked(images, given)
    try:
        with _client(url, tls) as client:
            contents = (argument.open() for argument in arguments)
            failed = _show(arguments, client.classify_many(contents, concurrency=concurrency, **given), as_json=as_json)
    except (InvalidUrl, TransportError) as error:
        raise _not_asked(f"no answer from {url} ({error}); start one with `phiserve serve`") from error
    if failed:
        raise typer.Exit(_SOME_FAILED)


class _TlsArguments(TypedDict):
    ca_cert: Path | None
    client_cert: Path | None
    client_key: Path | None


def _not_asked(message: str) -> typer.Exit:
    typer.echo(f"phiserve: {message}", err=True)
    return typer.Exit(_NOT_ASKED)


def _checked(images: list[str], given: OptionArguments) -> list[ImageArgument]:
    """The images to send with options that can be sent, before any is."""
    try:
        CallOptions(**given)
        return expand(images)
    except (NoSuchImage, InvalidArgument) as error:
        raise _not_asked(str(error)) from error


def _client(url: str, tls: _TlsArguments) -> Client:
    try:
        return Client(url, **tls)
    except InvalidUrl:
        raise
    except (ValueError, OSError) as error:
        raise _not_asked(f"the certificates cannot be used ({error})") from error


def _show(arguments: list[ImageArgument], results: Generator[Result], *, as_json: bool) -> int:
    """Show lines of JSON as results come, a table at the end, whatever the end is; how many are no answers.

    Raises:
        TransportError: the server is gone; what it answered before is shown.
    """
    table, failed = ResultTable(), 0
    try:
        with (
            closing(results),
            progress_bar(len(arguments), is_stdout_used=as_json) as progress,
        ):
            for argument, result in zip(arguments, counted(results, len(arguments), progress), strict=True):
                if isinstance(result, TransportError):
                    raise result
                failed += not isinstance(result, Classification)
                if as_json:
                    typer.echo(json_line(argument, result))
                else:
                    table.add(argument, result)
    finally:
        table.print()
    return failed
