"""Ray Serve: one deployment of `PEER_WORKERS` replicas behind its HTTP proxy, on a cluster of this machine alone."""

from __future__ import annotations

import os
import signal
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers import peer_model


@serve.deployment(num_replicas=peer_model.workers(), max_ongoing_requests=32, ray_actor_options={"num_cpus": 0.5})
class Classify:
    """One a replica."""

    def __init__(self) -> None:
        self._model = peer_model.PeerModel()

    async def __call__(self, request: Request) -> Any:
        """One photograph."""
        return self._model.classify(await request.body())


application: Any = Classify
"""What the decorator made of it."""


def main() -> None:
    """Serve at /classify until told to end."""
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        configure_logging=True,
        logging_level="warning",
        object_store_memory=128 * 1024**2,
        runtime_env={"env_vars": {name: value for name, value in os.environ.items() if name.startswith("PEER_")}},
    )
    address = {"host": "127.0.0.1", "port": peer_model.port()}
    serve.start(http_options=address, logging_config={"enable_access_log": False})
    serve.run(application.bind(), route_prefix="/classify")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
