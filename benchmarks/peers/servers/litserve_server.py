"""LitServe: decode, predict and encode in worker processes, `PEER_WORKERS` of them."""

from __future__ import annotations

import os
from typing import Annotated, Any

import litserve
from fastapi import Body

from benchmarks.peers import peer_model

# Evaluated here: LitServe reads the annotation itself, and compares it by identity.
Photograph = Annotated[bytes, Body(media_type="image/jpeg")]


class Classify(litserve.LitAPI):
    """Hooks with parameters as LitServe wants them named."""

    def setup(self, device: str) -> None:
        """In each worker."""
        del device
        self._model = peer_model.PeerModel()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201  see below
        """The body as it came."""
        return request

    decode_request.__annotations__["request"] = Photograph

    def predict(self, photograph: bytes) -> Any:
        """One photograph."""
        return self._model.classify(photograph)

    def encode_response(self, output: Any) -> Any:
        """A dictionary, which the server makes JSON."""
        return output


def main() -> None:
    """Serve at /predict."""
    server = litserve.LitServer(
        Classify(),
        accelerator="cpu",
        workers_per_device=peer_model.workers(),
        fast_queue=os.environ.get("PEER_FAST_QUEUE") == "1",
    )
    servers = int(os.environ.get("PEER_API_SERVERS", "1"))
    server.run("127.0.0.1", peer_model.port(), servers, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
