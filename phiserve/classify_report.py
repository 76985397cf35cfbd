"""How `phiserve classify` shows results: a table for people, one JSON object a line for programs, a bar while it runs.

It decides no exit code and sends nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TypeVar

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from phiserve.errors import PhiserveError
from phiserve.image_arguments import ImageArgument
from phiserve.results import Classification

Result = Classification | PhiserveError | OSError
T = TypeVar("T")

_OK = 200


def json_line(image: ImageArgument, result: Result) -> str:
    """The result as the server's JSON over REST, over whichever wire it came, with the image and the HTTP status.

    The status is null where there is no answer, as for a file that cannot be read.
    """
    if isinstance(result, Classification):
        members = {"status": _OK, **asdict(result)}
    elif isinstance(result, PhiserveError):
        members = result.problem()
    else:
        members = {"status": None, "detail": str(result)}
    return orjson.dumps({"image": image.name, "status": members["status"], **members}).decode()


class ResultTable:
    """Gathers results and prints them as one table."""

    def __init__(self) -> None:
        self._table = Table()
        for column in ("image", "class", "probability", "variant", "ms", "in budget"):
            self._table.add_column(column, overflow="fold")  # half a file name names no file

    def add(self, image: ImageArgument, result: Result) -> None:
        """One row for each class, or one for what went wrong."""
        if not isinstance(result, Classification):
            detail = result.detail if isinstance(result, PhiserveError) else str(result)
            # Text, not markup: what the server says may hold brackets.
            self._table.add_row(Text(image.short_name), Text(detail, style="red"))
            return
        variant = result.variant.name if result.variant.trained else f"{result.variant.name} (untrained)"
        total, met = f"{result.timings_ms.total:.1f}", "yes" if result.budget_met else "no"
        first_cells = (image.short_name, variant, total, met)
        for rank, prediction in enumerate(result.predictions):
            name, variant_cell, ms, in_budget = first_cells if rank == 0 else ("", "", "", "")
            probability = f"{prediction.probability:.3f}"
            self._table.add_row(Text(name), Text(prediction.label), probability, variant_cell, ms, in_budget)

    def print(self) -> None:
        """Print it, if there is anything in it."""
        if self._table.row_count:
            Console().print(self._table)


@contextmanager
def progress_bar(total: int, *, is_stdout_used: bool) -> Generator[Progress | None]:
    """A bar on standard error while several images are sent, if that is a terminal.

    None where there is to be no bar: nor is there one when lines are printed to the same terminal meanwhile.
    """
    console = Console(stderr=True)
    if total < 2 or not console.is_terminal or (is_stdout_used and sys.stdout.isatty()):
        yield None
        return
    columns = (TextColumn("classifying"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress


def counted(results: Iterable[T], total: int, progress: Progress | None) -> Iterator[T]:
    """`results`, each counted on the bar when the next one is asked for."""
    if progress is None:
        yield from results
        return
    task = progress.add_task("classifying", total=total)
    for result in results:
        yield result
        progress.advance(task)
