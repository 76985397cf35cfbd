"""Mosec: one stage that does everything, or decoding and the network as two stages with batches between them."""

from __future__ import annotations

import os
from typing import Any

from mosec import Server, Worker

from benchmarks.peers import peer_model


class Raw(Worker):
    """The body as it is, instead of JSON."""

    def deserialize(self, data: bytes) -> bytes:
        """Nothing to do."""
        return data


class Classify(Raw):
    """Everything in one process."""

    def __init__(self) -> None:
        super().__init__()
        self._model = peer_model.PeerModel()

    def forward(self, data: bytes) -> Any:
        """One photograph."""
        return self._model.classify(data)


class Prepare(Raw):
    """The first of two stages."""

    def __init__(self) -> None:
        super().__init__()
        self._model = peer_model.PeerModel()

    def forward(self, data: bytes) -> Any:
        """Pixels of one photograph."""
        return self._model.prepare(data)


class Run(Worker):
    """The second of two stages."""

    def __init__(self) -> None:
        super().__init__()
        self._model = peer_model.PeerModel()

    def forward(self, data: Any) -> Any:
        """One batch, or one picture if batches are of one."""
        return self._model.run(data) if peer_model.batch() > 1 else self._model.run([data])[0]


def main() -> None:
    """Serve at /inference; Mosec reads address and port from its command line."""
    server = Server()
    if os.environ.get("PEER_STAGES") == "2":
        server.append_worker(Prepare, num=1)
        server.append_worker(Run, num=peer_model.workers(), max_batch_size=peer_model.batch(), max_wait_time=5)
    else:
        server.append_worker(Classify, num=peer_model.workers())
    server.run()


if __name__ == "__main__":
    main()
