"""The `phiserve` command: `serve`, `store …`, `profile` and `classify` under one name.

Only mounts what lives elsewhere, and imports nothing heavy before a command needs it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from model_store.cli import store_app
from phiserve import __version__
from phiserve.classify import classify
from service.cli import add_server_commands, calibrate, evaluate

app = typer.Typer(
    name="phiserve",
    help="Image classification that answers with the most accurate EfficientNet each request's latency budget allows.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"phiserve {__version__}")
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Image classification that answers with the most accurate EfficientNet each request's budget allows."""
    del version  # handled by its callback, before any command


add_server_commands(app)
store_app.command("evaluate")(evaluate)
store_app.command("calibrate")(calibrate)
app.add_typer(store_app, name="store")
app.command("classify")(classify)


def main() -> None:
    """Entry point of the console script."""
    app()
