"""What every interop script has in common: the addresses, the picture, what phiserve's own REST API says of it.

Standard library only, since it runs inside each client's environment. A check is a block, and fails if that raises.
`INTEROP_HTTP` is the server's URL, such as http://127.0.0.1:8000, `INTEROP_GRPC` its address, such as 127.0.0.1:8001.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

PICTURE = Path(__file__).parent.parent / "photographs" / "tabby_cat.jpg"
VARIANT = "lite0"
"""The model that every client's answers are compared on: pinned, so that answers do not depend on load."""

PATIENT = {"budget_ms": 5000}
"""Parameters under which a busy machine answers too."""


class Checks:
    """Collects what was checked with one client, and what differed."""

    def __init__(self, package: str, where: str = "") -> None:
        """Read the addresses from the environment; `package` is the client's distribution, `where` is told of it."""
        # Not from the command line: KServe's package reads that itself when it is imported.
        self.http = os.environ["INTEROP_HTTP"]
        self.grpc = os.environ["INTEROP_GRPC"]
        self.picture = PICTURE.read_bytes()
        self._package = package
        self._where = where or Path(sys.argv[0]).stem
        self._passed: list[str] = []
        self._failed: list[str] = []

    @contextlib.contextmanager
    def check(self, name: str) -> Iterator[None]:
        """One check: it failed if its block raises, and the others go on."""
        try:
            yield
        except Exception:  # noqa: BLE001  whatever went wrong is what is reported
            self._failed.append(f"{name}\n{traceback.format_exc()}")
        else:
            self._passed.append(name)

    @contextlib.contextmanager
    def check_error(self, name: str, kind: type[Exception], is_right: Callable[[Any], bool]) -> Iterator[None]:
        """One check whose block must raise a `kind` that `is_right`."""
        with self.check(f"error, {name}"):
            try:
                yield
            except kind as error:
                if not is_right(error):
                    raise
            else:
                raise AssertionError("it was answered")

    def classes(self, count: int) -> list[tuple[int, str, float]]:
        """(index, label, probability) of the picture's best classes as `POST /classify` tells them."""
        request = urllib.request.Request(
            f"{self.http}/classify?variant={VARIANT}&top_k={count}&budget_ms=5000",
            self.picture,
            {"Content-Type": "image/jpeg"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            predictions = json.load(response)["predictions"]
        return [(each["index"], each["label"], each["probability"]) for each in predictions]

    def same_classification(self, elements) -> None:
        """`value:index:label` strings, as bytes or text, are what REST tells."""
        texts = [element.decode() if isinstance(element, bytes) else str(element) for element in elements]
        assert texts == [f"{value:.6f}:{index}:{label}" for index, label, value in self.classes(len(texts))], texts

    def same_probabilities(self, row) -> None:
        """1000 probabilities add up to one and have REST's best classes, in class order."""
        assert len(row) == 1000, len(row)
        assert abs(float(sum(row)) - 1) < 1e-4, sum(row)
        for index, _, value in self.classes(5):
            assert abs(float(row[index]) - value) < 1e-5, (index, row[index], value)

    def finish(self) -> None:
        """Print one line, and what failed; leave with 1 if anything did."""
        client = f"{self._package} {version(self._package)} ({self._where})"
        print(f"{client}: {'; '.join(self._passed) or 'nothing passed'}")
        for failure in self._failed:
            print(f"FAILED {self._package}: {failure}", file=sys.stderr)
        sys.exit(1 if self._failed else 0)
