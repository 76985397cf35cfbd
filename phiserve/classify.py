"""`phiserve classify`: send images to a running server over REST and show what it answered.

Translates arguments into requests and answers into lines; it reads no model and starts no server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

# The server gives up on a request at its budget; the client waits this much longer before it calls the server dead.
_GRACE_S = 10.0
_DEFAULT_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class _Answered:
    """What came back for one image: the answer, or what went wrong in the place of one."""

    image: Path
    status: int
    body: Mapping[str, Any]

    @property
    def is_answer(self) -> bool:
        return "predictions" in self.body


def classify(
    images: Annotated[list[Path], typer.Argument(help="Image files.", exists=True, dir_okay=False, readable=True)],
    *,
    budget_ms: Annotated[float | None, typer.Option(help="Latency budget of each image, in ms.")] = None,
    variant: Annotated[str | None, typer.Option(help="Pin to one variant, such as lite0.")] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Only variants of at least this top-1 accuracy, in percent.")
    ] = None,
    on_miss: Annotated[
        Literal["reject", "late"], typer.Option(help="What to do if no variant can make the budget.")
    ] = "reject",
    top_k: Annotated[int, typer.Option(help="How many classes to show.", min=1)] = 3,
    url: Annotated[str, typer.Option(help="The server.", envvar="PHISERVE_URL")] = "http://127.0.0.1:8000",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")] = False,
) -> None:
    """Classify images on a running server.

    Exit code: 0 all answered, 1 some images failed, 2 the server could not be reached.
    """
    given = {"budget_ms": budget_ms, "variant": variant, "min_accuracy": min_accuracy}
    parameters = {"top_k": top_k, "on_miss": on_miss} | {k: v for k, v in given.items() if v is not None}
    wait_s = _DEFAULT_WAIT_S if budget_ms is None or on_miss == "late" else budget_ms / 1000 + _GRACE_S
    table = _table()
    failed = 0
    try:
        for answered in _ask(url, images, parameters, wait_s):
            failed += not answered.is_answer
            if as_json:
                line = {"image": str(answered.image), "status": answered.status, **answered.body}
                typer.echo(orjson.dumps(line).decode())
            else:
                _add_rows(table, answered)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        typer.echo(f"phiserve: no answer from {url} ({error}); start one with `phiserve serve`", err=True)
        raise typer.Exit(2) from error
    finally:
        if table.row_count:
            Console().print(table)
    if failed:
        raise typer.Exit(1)


def _ask(
    url: str, images: list[Path], parameters: Mapping[str, str | int | float], wait_s: float
) -> Iterator[_Answered]:
    """One request after the other, each answer as soon as it is there."""
    with httpx.Client(base_url=url, timeout=wait_s) as client:
        for path in images:
            response = client.post("/classify", params=parameters, content=path.read_bytes())
            yield _Answered(path, response.status_code, _body(response))


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        found = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        found = None
    wanted = "predictions" if response.is_success else "detail"
    if isinstance(found, dict) and wanted in found:
        return found
    # Whatever answered, a proxy's page for instance, is shown as what it is.
    return {"detail": f"HTTP {response.status_code}, which is not an answer of phiserve; is the address right?"}


def _table() -> Table:
    table = Table()
    for column in ("image", "class", "probability", "variant", "ms", "in budget"):
        table.add_column(column, overflow="fold")  # half a file name names no file
    return table


def _add_rows(table: Table, answered: _Answered) -> None:
    body = answered.body
    if not answered.is_answer:
        # Text, not markup: what the server says may hold brackets.
        table.add_row(Text(answered.image.name), Text(str(body["detail"]), style="red"))
        return
    used = body["variant"]
    name = used["name"] if used["trained"] else f"{used['name']} (untrained)"
    total, met = f"{body['timings_ms']['total']:.1f}", "yes" if body["budget_met"] else "no"
    for rank, prediction in enumerate(body["predictions"]):
        image, variant, ms, in_budget = (answered.image.name, name, total, met) if rank == 0 else ("", "", "", "")
        label, probability = Text(prediction["label"]), f"{prediction['probability']:.3f}"
        table.add_row(Text(image), label, probability, variant, ms, in_budget)
