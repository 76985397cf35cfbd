"""One execution provider in a process of its own, with the Python that has it: times runs and judges pictures.

`python -m benchmarks.precision_side STORE PROVIDER` answers a line of JSON with another, as `Side` asks them. Two
packages of ONNX Runtime cannot share a process, and so they take turns in two. Decides nothing and writes no page.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.bf16_rounding import rounding
from model_store.catalogue import Catalogue
from service.runtime.precisions import refusal
from service.runtime.providers import Provider, SessionOptions
from service.runtime.session import Probabilities, Session, open_graph, runtime_name

ROOT = Path(__file__).parent.parent
_AT_ONCE = 8


class Side:
    """The process, seen from the one that asks; a context manager that ends it."""

    def __init__(self, python: Path, provider: Provider, store: Path) -> None:
        """Start it; it opens each session when it is first asked for."""
        command = [str(python), "-m", "benchmarks.precision_side", str(store), provider.value]
        self.provider = provider
        self._process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.runtime: str
        self.refused: Mapping[str, str]
        self.runtime, self.refused = self._ask(do="present")

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._process.communicate()

    def time_ms(self, variant: str, threads: int, batch_size: int, runs: int) -> list[float]:
        """Milliseconds of `runs` runs, after one that is not counted."""
        took_ms: list[float] = self._ask(do="time", variant=variant, threads=threads, batch_size=batch_size, runs=runs)
        return took_ms

    def judge(self, variant: str, pixels: Path, *, rounded: bool = False) -> Probabilities:
        """Probabilities for the pictures in the file `pixels`; `rounded` as bfloat16 would give them (`rounding`)."""
        answer = pixels.with_name(f"{variant}-{self.provider}{'-rounded' if rounded else ''}.npy")
        self._ask(do="judge", variant=variant, pixels=str(pixels), rounded=rounded, answer=str(answer))
        found: Probabilities = np.load(answer)
        return found

    def _ask(self, **question: object) -> Any:
        pipes = self._process.stdin, self._process.stdout
        assert pipes[0] is not None, "made with pipes"
        assert pipes[1] is not None, "made with pipes"
        pipes[0].write(json.dumps(question) + "\n")
        pipes[0].flush()
        if not (line := pipes[1].readline()):
            raise RuntimeError(f"the process for {self.provider} ended in the middle of {question}")
        return json.loads(line)


class _Sessions:
    """The other end: answers to questions, by name."""

    def __init__(self, store: Path, provider: Provider) -> None:
        self._entries = Catalogue.open(store).entries
        self._provider = provider
        self._session = cache(self._open)

    def _open(self, variant: str, threads: int, batch_size: int) -> Session:
        entry = self._entries[variant]
        session = Session(entry.read_model(), entry.variant, SessionOptions(threads, batch_size), self._provider)
        assert session.provider is self._provider, "the process is started with the Python that has the provider"
        return session

    def present(self) -> tuple[str, dict[str, str]]:
        """The runtime, and which variants it cannot run, and why."""
        reasons = {name: refusal(self._provider, entry.variant.precision) for name, entry in self._entries.items()}
        return runtime_name(self._provider), {name: why for name, why in reasons.items() if why is not None}

    def time(self, variant: str, threads: int, batch_size: int, runs: int) -> list[float]:
        """See `Side`."""
        session, side = self._session(variant, threads, batch_size), self._entries[variant].variant.resolution
        pixels = np.random.default_rng(0).integers(0, 256, (batch_size, side, side, 3), np.uint8)
        took_ms = []
        for _ in range(1 + runs):
            started_ns = time.perf_counter_ns()
            session.run(pixels)
            took_ms.append((time.perf_counter_ns() - started_ns) / 1e6)
        return took_ms[1:]

    def judge(self, variant: str, pixels: str, answer: str, *, rounded: bool) -> None:
        """See `Side`."""
        run: Callable[[Any], Probabilities]
        if rounded:
            graph = open_graph(rounding(self._entries[variant].read_model()), 1)
            run = lambda batch: graph(batch)["probabilities"]  # noqa: E731 - beside the other
        else:
            run = self._session(variant, 1, _AT_ONCE).run
        pictures = np.load(pixels, mmap_mode="r")
        parts = [run(np.array(pictures[at : at + _AT_ONCE])) for at in range(0, len(pictures), _AT_ONCE)]
        np.save(answer, np.concatenate(parts))


def main() -> None:
    """Answer until there is no further question."""
    sessions = _Sessions(Path(sys.argv[1]), Provider(sys.argv[2]))
    answers: Mapping[str, Callable[..., Any]] = {
        "present": sessions.present,
        "time": sessions.time,
        "judge": sessions.judge,
    }
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(answers[question.pop("do")](**question)), flush=True)


if __name__ == "__main__":
    main()
