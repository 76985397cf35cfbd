"""The other commands, run as a user runs them: `classify`, `profile`, `store evaluate`."""

from __future__ import annotations

import json
import shutil
import socket

from tests.end_to_end.conftest import LITE, PHOTOGRAPHS
from tests.end_to_end.phiserve_process import run_phiserve

NAMES = {"espresso": "espresso", "tripod": "tripod"}


def test_classify_shows_a_table(server) -> None:
    """Each photograph is named with its class, the variant that said so and its time; exit code 0."""
    ended = run_phiserve("classify", *sorted(PHOTOGRAPHS.glob("*.jpg")), "--url", server.url, "--variant", "lite2")
    assert ended.returncode == 0, ended.stderr
    rows = [line for line in ended.stdout.splitlines() if ".jpg" in line]
    assert len(rows) == 3
    for name in NAMES:
        (row,) = (row for row in rows if f"{name}.jpg" in row)
        assert row.count(name) == 2, "the file's name and the class"
        assert "lite2" in row


def test_classify_prints_json_and_counts_failures(server, tmp_path) -> None:
    """One object a line; a file that is no picture is reported in its place and makes the exit code 1."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    arguments = ["--url", server.url, "--json", "--variant", "lite0", "--top-k", "1"]
    ended = run_phiserve("classify", broken, PHOTOGRAPHS / "espresso.jpg", *arguments)
    assert ended.returncode == 1
    first, second = map(json.loads, ended.stdout.splitlines())
    assert (first["image"], first["status"], first["type"]) == (str(broken), 400, "/problems/invalid-image")
    assert second["status"] == 200
    assert [prediction["label"] for prediction in second["predictions"]] == ["espresso"]
    assert second["variant"]["name"] == "lite0"


def test_classify_without_a_server_says_how_to_start_one() -> None:
    """Exit code 2 and one line, not a traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening: nobody else can
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        ended = run_phiserve("classify", PHOTOGRAPHS / "espresso.jpg", "--url", url)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert url in ended.stderr
    assert "phiserve serve" in ended.stderr


def test_profile_prints_what_was_measured(profiled, lite_store) -> None:
    """Every variant with its latency, from the profile that the server made, and what it means for budgets."""
    ended = run_phiserve("profile", "--store", lite_store, "--batch-size-max", "1", "--explain")
    assert ended.returncode == 0, ended.stderr
    for name in LITE:
        assert any(name in line and "│" in line for line in ended.stdout.splitlines()), ended.stdout
        assert f"{name} on 1 thread(s)" in ended.stdout
    assert "Idle, a budget of" in ended.stdout
    assert "a run is one image" in ended.stdout


def test_evaluate_measures_accuracy_on_labelled_photographs(lite_store, tmp_path) -> None:
    """On two photographs that every variant gets right: 100 %, beside the published figure, which stays."""
    for index, name in ((967, "espresso"), (872, "tripod")):
        shutil.copy(PHOTOGRAPHS / f"{name}.jpg", tmp_path / f"{index}_{name}.jpg")
    ended = run_phiserve("store", "evaluate", "lite0", "lite2", "--images", tmp_path, "--store", lite_store)
    assert ended.returncode == 0, ended.stderr
    rows = {
        cells[0]: cells for line in ended.stdout.splitlines() if (cells := line.strip("│").replace("│", "").split())
    }
    assert rows["lite0"] == ["lite0", "yes", "2", "100.0", "100.0", "75.1"]
    assert rows["lite2"] == ["lite2", "yes", "2", "100.0", "100.0", "77.6"]
    assert "lite1" not in rows


def test_evaluate_refuses_a_folder_of_something_else(lite_store) -> None:
    """Photographs that do not say their class are named with the form they should have; exit code 2."""
    ended = run_phiserve("store", "evaluate", "--images", PHOTOGRAPHS, "--store", lite_store)
    assert ended.returncode == 2
    assert "NNN_name.jpg" in ended.stderr
    assert "espresso.jpg" in ended.stderr


def test_evaluate_can_record_what_it_measured(lite0_store, tmp_path) -> None:
    """With `--record --replace-published` the store says what was measured here, and on how many photographs."""
    store, photographs = shutil.copytree(lite0_store, tmp_path / "store"), tmp_path / "photographs"
    photographs.mkdir()
    shutil.copy(PHOTOGRAPHS / "espresso.jpg", photographs / "967_espresso.jpg")
    arguments = ("--images", photographs, "--store", store, "--record", "--replace-published")
    ended = run_phiserve("store", "evaluate", *arguments)
    assert ended.returncode == 0, ended.stderr
    shown = run_phiserve("store", "show", "lite0", "--store", store).stdout
    assert "evaluated on 1 photographs of photographs" in shown
    assert "100.0, 100.0" in shown
