"""`phiserve classify`: send images to a running server over REST and show what it answered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import typer
from rich.console import Console
from rich.table import Table

# The server gives up on a request at its budget; the client waits this much longer before it calls the server dead.
_GRACE_S = 10.0
_DEFAULT_WAIT_S = 60.0


def classify(
    images: Annotated[list[Path], typer.Argument(help="Image files.", exists=True, dir_okay=False, readable=True)],
    *,
    budget_ms: Annotated[float | None, typer.Option(help="Latency budget of each image, in ms.")] = None,
    variant: Annotated[str | None, typer.Option(help="Pin to one variant, such as lite0.")] = None,
    top_k: Annotated[int, typer.Option(help="How many classes to show.", min=1)] = 3,
    url: Annotated[str, typer.Option(help="The server.", envvar="PHISERVE_URL")] = "http://127.0.0.1:8000",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")] = False,
) -> None:
    """Classify images on a running server.

    Exit code: 0 all answered, 1 some images failed, 2 the server could not be reached.
    """
    parameters: dict[str, str | int | float] = {"top_k": top_k}
    if budget_ms is not None:
        parameters["budget_ms"] = budget_ms
    if variant is not None:
        parameters["variant"] = variant
    timeout_s = _DEFAULT_WAIT_S if budget_ms is None else budget_ms / 1000 + _GRACE_S
    answers = []
    with httpx.Client(base_url=url, timeout=timeout_s) as client:
        for path in images:
            try:
                response = client.post("/classify", params=parameters, content=path.read_bytes())
            except httpx.TransportError as error:
                typer.echo(f"phiserve: no answer from {url} ({error}); start one with `phiserve serve`", err=True)
                raise typer.Exit(2) from error
            answers.append((path, response))
    if as_json:
        for path, response in answers:
            typer.echo(orjson.dumps({"image": str(path), "status": response.status_code, **_body(response)}))
    else:
        Console().print(_table(answers))
    if any(response.status_code != httpx.codes.OK for _, response in answers):
        raise typer.Exit(1)


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        found = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        found = None
    # Whatever answered, a proxy's page for instance, is shown as what it is.
    return found if isinstance(found, dict) else {"detail": f"HTTP {response.status_code}: not an answer of phiserve"}


def _table(answers: list[tuple[Path, httpx.Response]]) -> Table:
    table = Table("image", "class", "probability", "variant", "ms", "in budget")
    for path, response in answers:
        body = _body(response)
        if response.status_code != httpx.codes.OK:
            table.add_row(path.name, f"[red]{body.get('detail', response.status_code)}[/red]", "", "", "", "")
            continue
        used = body["variant"]
        name = used["name"] if used["trained"] else f"{used['name']} (untrained: means nothing)"
        total, met = f"{body['timings_ms']['total']:.1f}", "yes" if body["budget_met"] else "no"
        for rank, prediction in enumerate(body["predictions"]):
            shown = (path.name, name, total, met) if rank == 0 else ("", "", "", "")
            probability = f"{prediction['probability']:.3f}"
            table.add_row(shown[0], prediction["label"], probability, shown[1], shown[2], shown[3])
    return table
