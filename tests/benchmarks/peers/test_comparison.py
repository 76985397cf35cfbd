"""Turns, wrapped photographs, and one real start of each kind of failure; no peer is installed for this."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import pytest

from benchmarks.peers.comparison import PHOTOGRAPHS, turns
from benchmarks.peers.contestants import CONTESTANTS, Contestant, Setting
from benchmarks.peers.environments import REQUIREMENTS
from benchmarks.peers.peer_model import PeerModel
from benchmarks.peers.photographs import bodies
from benchmarks.peers.running import ContestantFailed, serving
from model_store.builder import BuildRequest, build_store
from model_store.catalogue import Catalogue
from model_store.sources import from_wheel


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    build_store(root, [BuildRequest("lite0", from_wheel("lite0"))])
    return root


def test_each_round_begins_with_another_server():
    """Everyone has its turn in every round, and nobody is always first."""
    names = [contestant.name for contestant in CONTESTANTS]
    orders = [list(dict.fromkeys(c.name for c, _ in turns(names, go, tune=False))) for go in range(len(names))]
    assert {order[0] for order in orders} == set(names)
    assert all(sorted(order) == sorted(names) for order in orders)


def test_tuning_tries_every_setting():
    """Without it a peer has one setting; with it all."""
    mosec = next(contestant for contestant in CONTESTANTS if contestant.name == "mosec")
    assert [setting for _, setting in turns(["mosec"], 1, tune=False)] == [mosec.settings[0]]
    assert [setting for _, setting in turns(["mosec"], 1, tune=True)] == list(mosec.settings)


def test_every_peer_is_pinned():
    """Each peer has a file of requirements in which every line names one version."""
    for contestant in CONTESTANTS[1:]:
        lines = (REQUIREMENTS / f"{contestant.name}.txt").read_text().splitlines()
        assert all("==" in line for line in lines if not line.startswith("#"))


def test_wrapped_photographs_share_one_header_length():
    """A message is its JSON, padded to the length that the header field names, then the tensor."""
    with bodies(PHOTOGRAPHS, wrapped=True) as wrapped:
        for file, photograph in zip(wrapped.files, PHOTOGRAPHS, strict=True):
            message = file.read_bytes()
            length = int(wrapped.headers["Inference-Header-Content-Length"])
            size = json.loads(message[:length])["inputs"][0]["parameters"]["binary_data_size"]
            assert message[length:] == struct.pack("<I", size - 4) + photograph.read_bytes()


def test_peers_are_given_the_network_that_phiserve_serves(store, monkeypatch):
    """The shared model answers a real photograph with five labelled classes, the right one first."""
    monkeypatch.setenv("PEER_MODEL", str(Catalogue.open(store).entries["lite0"].folder))
    espresso = next(path for path in PHOTOGRAPHS if path.stem == "espresso")
    classes = PeerModel().classify(espresso.read_bytes())["classes"]
    assert len(classes) == 5
    assert classes[0]["label"] == "espresso"
    assert classes[0]["probability"] > classes[1]["probability"]


def contestant(code: str) -> Contestant:
    return Contestant("phiserve", "Trial", (), (sys.executable, "-c", code, "{port}"), "/", (Setting("only"),), "")


WRONG = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a teapot")
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.parametrize(
    ("code", "says"), [("import sys; sys.exit('no licence')", "ended with code 1\nno licence"), (WRONG, "a teapot")]
)
def test_a_server_that_does_not_do_the_work_gets_no_figures(store: Path, code: str, says: str):
    """One that ends is quoted with what it wrote; one that answers something else is not loaded."""
    trial = contestant(code)
    with (
        bodies(PHOTOGRAPHS, wrapped=False) as posted,
        pytest.raises(ContestantFailed, match=says),
        serving(trial, trial.settings[0], store, "lite0", posted),
    ):
        pass
