"""The committed stubs are what the .proto files make, and a change that breaks clients does not pass."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def contract(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "proto" / "contract.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def copied(tmp_path) -> Path:
    """A tree that holds a copy of proto/, free to be changed."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    return tmp_path


def test_the_stubs_are_up_to_date(tmp_path) -> None:
    """Made anew they are the same, byte by byte, and none is left over; if this fails, run `make proto`."""
    made_anew = contract(ROOT, "generate", "--out", str(tmp_path))
    assert made_anew.returncode == 0, made_anew.stderr
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*_pb2*")}
    committed = {
        path.relative_to(ROOT): path.read_text()
        for package in ("phiserve", "service")
        for path in (ROOT / package).rglob("*_pb2*")
        if "__pycache__" not in path.parts
    }
    assert made == committed


def test_the_contract_passes_its_own_check(copied) -> None:
    """The files as they are keep to the style and break nothing that was released."""
    checked = contract(copied, "check")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("string variant = 4;", "string variant = 14;", 'Previously present field "4"'),
        ("  uint32 top_k = 3;", "  string top_k = 3;", "top_k"),
        ("double budget_ms = 3;", "double deadline_ms = 3;", "budget_ms"),
        ("rpc ListVariants(", "// Lists.\n  rpc Variants(", "ListVariants"),
        ("string degraded_from = 7;", "string degradedFrom = 7;", "degraded_from"),
        ("// One frame of a stream.\n", "", "ClassifyStreamRequest"),
    ],
)
def test_what_breaks_clients_or_style_is_refused(copied, old, new, complaint) -> None:
    """A renumbered, retyped or renamed field, a method that is gone, or no comment: each is named."""
    path = copied / "proto" / "phiserve" / "v1" / "classifier.proto"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    checked = contract(copied, "check")
    assert checked.returncode != 0
    assert complaint in checked.stdout + checked.stderr


@pytest.mark.parametrize("released", [False, True])
def test_a_release_is_what_may_not_be_broken(copied, released) -> None:
    """A new field may go again, until it was released."""
    path = copied / "proto" / "phiserve" / "v1" / "classifier.proto"
    before = path.read_text()
    path.write_text(before.replace("ListVariantsRequest {}", "ListVariantsRequest {\n  bool trained = 1;\n}"))
    if released:
        assert contract(copied, "release").returncode == 0
    path.write_text(before)
    checked = contract(copied, "check")
    assert ("trained" in checked.stdout + checked.stderr) is released
    assert (checked.returncode != 0) is released
