"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_functions_fit_on_a_screen(path: Path) -> None:
    """No function outside tests is longer than a screen, and no file is longer than one idea can be."""
    text = path.read_text()
    assert text.count("\n") <= FILE_LINES_MAX, "split it: a file holds one idea"
    if name_of(path).startswith("tests/"):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_modules_and_tests_say_what_they_are(path: Path) -> None:
    """Each module that holds code has a docstring, and each test states the behaviour it expects."""
    tree = ast.parse(path.read_text())
    if tree.body:
        assert ast.get_docstring(tree), "a module says what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            assert ast.get_docstring(node), f"{node.name} must state the behaviour it expects"


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_nothing_is_left_unfinished(path: Path) -> None:
    """No file holds a marker of unfinished work, and none ends without a newline."""
    text = path.read_text()
    assert not text or text.endswith("\n"), "ends without a newline"
    if not name_of(path).startswith(VENDORED):
        assert not UNFINISHED.search(text)


@pytest.mark.parametrize("path", [p for p in PYTHON if name_of(p).startswith("tests/")], ids=name_of)
def test_tests_do_not_sleep(path: Path) -> None:
    """No test waits by the clock: `time.sleep` is nowhere, `asyncio.sleep` only in fake time."""
    text = path.read_text()
    assert "time.sleep" + "(" not in text
    if "asyncio.sleep" + "(" in text:
        assert "fake" in text, "asyncio.sleep outside of fake time"


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
