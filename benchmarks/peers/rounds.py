"""What was measured of contestants, one cell a line in a scratch file, so that rounds can be run in separate goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson


@dataclass(frozen=True, slots=True)
class Cell:
    """One load on one server: answers a second, milliseconds, and what its processes held together right after it.

    `go` tells rounds apart: ratios are only taken within one.
    """

    go: int
    contestant: str
    setting: str
    variant: str
    concurrency: int
    per_s: float
    p50_ms: float
    p99_ms: float
    memory_mib: float
    versions: str


@dataclass(frozen=True, slots=True)
class Scratch:
    """The file; it may not exist yet."""

    path: Path

    def add(self, cells: Sequence[Cell]) -> None:
        """Append, whole lines at a time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(b"".join(orjson.dumps(asdict(cell)) + b"\n" for cell in cells))

    def cells(self) -> list[Cell]:
        """All there are, in order."""
        if not self.path.exists():
            return []
        return [Cell(**orjson.loads(line)) for line in self.path.read_bytes().splitlines()]

    def next_go(self) -> int:
        """The number of a new round."""
        return 1 + max((cell.go for cell in self.cells()), default=0)

    def forget(self) -> None:
        """Begin anew."""
        self.path.unlink(missing_ok=True)
