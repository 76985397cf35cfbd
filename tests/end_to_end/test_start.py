"""How `phiserve serve` starts: ready without measuring twice, or refused in one line with exit code 2."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path

import pytest

from tests.end_to_end.phiserve_process import ServerProcess, client_of, run_phiserve, serving

MEASURES = "profiling"


def refusal(*arguments: str | Path) -> str:
    """The only line that a refused start writes."""
    ended = run_phiserve("serve", "--port", "0", "--grpc-port", "0", *arguments)
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    assert ended.stderr.startswith("phiserve: ")
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


def test_the_first_start_measures_and_the_next_does_not(profiled, serve_flags, lite_store, espresso) -> None:
    """The profile of this machine is kept in the store: the next server is ready with it and answers as before."""
    assert [line for line in profiled.log() if line["message"].startswith(MEASURES)]
    # Beside it may lie what variants take of memory, which a server with a limit measures.
    (profile,) = [path for path in (lite_store / "profiles").iterdir() if not path.name.startswith("memory-")]
    kept = profile.read_bytes()
    with serving(*serve_flags) as again, client_of(again) as client, client_of(profiled) as first:
        assert not [line for line in again.log() if line["message"].startswith(MEASURES)]
        assert client.get("/variants").json()["variants"] == first.get("/variants").json()["variants"]
        assert client.post("/classify", content=espresso).json()["predictions"][0]["index"] == 967
    assert profile.read_bytes() == kept


def test_only_the_variants_asked_for_are_served(profiled, serve_flags, espresso) -> None:
    """With `--variant` the others are not loaded, and asking for one of them names those that are."""
    with serving(*serve_flags, "--variant", "lite0", "--variant", "lite1") as server, client_of(server) as client:
        assert [row["name"] for row in client.get("/variants").json()["variants"]] == ["lite1", "lite0"]
        assert not [line for line in server.log() if line["message"].startswith(MEASURES)]
        assert client.post("/classify", content=espresso).json()["variant"]["name"] in {"lite0", "lite1"}
        refused = client.post("/classify", params={"variant": "lite2"}, content=espresso)
        assert (refused.status_code, "lite0" in refused.json()["detail"]) == (404, True)


def test_a_port_in_use_is_refused_at_once(profiled, serve_flags) -> None:
    """Before anything is loaded the address and the flags that choose another are named."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = refusal(*serve_flags, "--port", port)
    assert f"127.0.0.1:{port}" in line
    assert "--port" in line


def test_a_missing_store_is_refused_with_the_command_that_builds_one(tmp_path) -> None:
    """The line names the folder that was looked at and how to fill it."""
    line = refusal("--store", tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in line
    assert "phiserve store build" in line


def test_a_variant_that_is_not_there_is_refused_with_those_that_are(lite0_store) -> None:
    """The line names what was asked for, what there is, and how to add it."""
    line = refusal("--store", lite0_store, "--variant", "b3")
    assert "b3" in line
    assert "lite0" in line


@pytest.mark.parametrize("file", ["model.onnx", "labels.json", "manifest.json"])
def test_a_tampered_store_is_refused_by_file(lite0_store, tmp_path, file) -> None:
    """One flipped bit in any file of a variant is found before it is used, and the file is named."""
    store = shutil.copytree(lite0_store, tmp_path / "store")
    (path,) = store.glob(f"lite0/*/{file}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    line = refusal("--store", store)
    assert str(path) in line
    assert "phiserve store build lite0" in line


def test_a_bound_that_is_not_one_is_refused(lite0_store) -> None:
    """Settings that contradict each other are named by their flags."""
    line = refusal("--store", lite0_store, "--budget-ms-default", "500", "--budget-ms-max", "100")
    assert "--budget-ms-default" in line
    assert "--budget-ms-max" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_start_can_be_stopped(lite0_store, tmp_path, number) -> None:
    """A signal while the machine is being measured ends the process at once, cleanly and in one line."""
    store = shutil.copytree(lite0_store, tmp_path / "store")
    server = ServerProcess("--store", store)
    try:
        server.wait_for_log(MEASURES)
        server.stop(number)
        line = server.wait_for_log("received")
        assert line == f"phiserve: {number.name} received before the server was ready; stopped"
        assert server.wait() == 0
    finally:
        server.close()
    assert not (store / "profiles").exists(), "half a profile is none"
