"""docs/clients.md keeps its word: each snippet runs against a real server and prints what stands under it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.conftest import PHOTOGRAPHS
from tests.end_to_end.phiserve_process import ENVIRONMENT, PHISERVE

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "clients.md"
TIMEOUT_S = 60

# Budgets of the snippets, and what they are here: other processes may have the cores.
PATIENT = {"budget_ms=500": "budget_ms=30000", "--budget-ms 500": "--budget-ms 30000", "10 * error": "100 * error"}


@dataclass(frozen=True)
class Snippet:
    """One block of bash or python, and the block of text right under it, if there is one."""

    language: str
    code: str
    prints: str | None
    name: str


def snippets() -> list[Snippet]:
    """What is written in bash or python; other blocks are for reading."""
    found, heading = [], ""
    block = re.compile(
        r"^#+ (?P<heading>[^\n]+)$|^```(?P<language>bash|python)\n(?P<code>.*?)^```\n(\n```text\n(?P<prints>.*?)^```)?",
        re.MULTILINE | re.DOTALL,
    )
    for match in block.finditer(DOCUMENT.read_text()):
        if match["heading"]:
            heading = match["heading"]
        else:
            found.append(Snippet(match["language"], match["code"], match["prints"], f"{heading}-{len(found)}"))
    return found


def shape(text: str) -> str:
    """`text` without its numbers, and without what depends on how wide they are."""
    return re.sub(r"[ ━─]+", " ", re.sub(r"\d+(\.\d+)?", "#", text)).strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the snippets run, with the photographs that they name."""
    folder = tmp_path_factory.mktemp("clients")
    shutil.copy(PHOTOGRAPHS / "espresso.jpg", folder / "photo.jpg")
    for name in ("photos/espresso.jpg", "photos/tripod.jpg", "more/espresso.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(PHOTOGRAPHS / Path(name).name, folder / name)
    return folder


@pytest.fixture(scope="module")
def grpc_authority(server) -> str:
    """Where the server serves gRPC, from the line that announces it."""
    return server.grpc_address


def to_run(snippet: Snippet, url: str, grpc_authority: str) -> tuple[list[str], str]:
    """The command and the code, with the server's addresses in the place of the default ones, and patient budgets."""
    code = snippet.code.replace("http://127.0.0.1:8000", url).replace("Client()", f"Client({url!r})")
    code = code.replace("127.0.0.1:8001", grpc_authority)
    for budget, patient in PATIENT.items():
        code = code.replace(budget, patient)
    return (
        ["bash", "-euo", "pipefail", "-c", code] if snippet.language == "bash" else [sys.executable, "-c", code]
    ), code


@pytest.mark.parametrize("snippet", snippets(), ids=lambda snippet: snippet.name)
def test_every_snippet_prints_what_it_says(server, grpc_authority, folder, snippet) -> None:
    """It ends well, and prints the text under it, numbers aside; where there is none it prints something."""
    command, code = to_run(snippet, server.url, grpc_authority)
    path = os.pathsep.join([str(PHISERVE.parent), ENVIRONMENT.get("PATH", "")])
    environment = ENVIRONMENT | {"PHISERVE_URL": server.url, "PATH": path}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert ended.returncode == 0, f"{code}\n{ended.stdout}\n{ended.stderr}"
    assert ended.stdout.strip()
    if snippet.prints is not None:
        assert shape(ended.stdout) == shape(snippet.prints)


def test_the_document_has_snippets() -> None:
    """The pattern that finds them still does: curl, the command and Python are among them."""
    found = snippets()
    assert len(found) >= 8
    assert {snippet.language for snippet in found} == {"bash", "python"}
    for word in ("curl", "grpc://", "stream(", "AsyncClient"):
        assert any(word in snippet.code for snippet in found)
