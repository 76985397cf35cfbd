"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
TRACKED = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, text=True).stdout
FILES = [ROOT / name for name in TRACKED.split("\0") if name] or [
    path for path in ROOT.rglob("*") if path.is_file() and not any(part.startswith(".") for part in path.parts)
]
PYTHON = [path for path in FILES if path.suffix == ".py" and path.exists()]
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".proto", ".sh", ".html", ".css", ".js"}
TEXTS = [p for p in FILES if (p.suffix in TEXT_SUFFIXES or p.name in {"Makefile", "Dockerfile", "run"}) and p.exists()]
VENDORED = ("service/frontends/web/",)
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 500
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def faults(paths: Iterable[Path], rule: Callable[[Path, str], Iterator[str]]) -> list[str]:
    """What `rule` says against each file, given its text. One test a rule: one for each file took longer to set up."""
    return [f"{name_of(path)}: {fault}" for path in paths for fault in rule(path, path.read_text())]


def test_functions_fit_on_a_screen() -> None:
    """No function outside tests is longer than a screen, and no file is longer than one idea can be."""

    def too_long(path: Path, text: str) -> Iterator[str]:
        if text.count("\n") > FILE_LINES_MAX:
            yield "split it: a file holds one idea"
        for node in [] if name_of(path).startswith("tests/") else ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    yield f"{node.name} has {lines} lines"

    assert faults(PYTHON, too_long) == []


def test_modules_and_tests_say_what_they_are() -> None:
    """Each module that holds code has a docstring, and each test states the behaviour it expects."""

    def unsaid(_: Path, text: str) -> Iterator[str]:
        tree = ast.parse(text)
        if tree.body and not ast.get_docstring(tree):
            yield "a module says what it is"
        for node in ast.walk(tree):
            is_test = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
            if is_test and not ast.get_docstring(node):
                yield f"{node.name} must state the behaviour it expects"

    assert faults(PYTHON, unsaid) == []


def test_nothing_is_left_unfinished() -> None:
    """No file holds a marker of unfinished work, and none ends without a newline."""

    def unfinished(path: Path, text: str) -> Iterator[str]:
        if text and not text.endswith("\n"):
            yield "ends without a newline"
        if not name_of(path).startswith(VENDORED) and (found := UNFINISHED.search(text)):
            yield f"says {found[0]}"

    assert faults(TEXTS, unfinished) == []


def test_tests_do_not_sleep() -> None:
    """No test waits by the clock: `time.sleep` is nowhere, `asyncio.sleep` only in fake time."""

    def sleeps(_: Path, text: str) -> Iterator[str]:
        if "time.sleep" + "(" in text:
            yield "time.sleep"
        if "asyncio.sleep" + "(" in text and "fake" not in text:
            yield "asyncio.sleep outside of fake time"

    assert faults([path for path in PYTHON if name_of(path).startswith("tests/")], sleeps) == []


def test_no_large_file_is_tracked() -> None:
    """What a build makes is not committed: no tracked file is over 2 MiB."""
    assert [name_of(path) for path in FILES if path.exists() and path.stat().st_size > 2 * 1024**2] == []


def test_commands_named_in_the_documents_exist() -> None:
    """Every `make verb` that a document names is a verb of the Makefile."""
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for path in TEXTS:
        if path.suffix == ".md":
            for verb in re.findall(r"`make ([a-z-]+)", path.read_text()):
                assert verb in verbs, f"{name_of(path)} names `make {verb}`"
