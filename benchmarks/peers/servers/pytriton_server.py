"""PyTriton: a Triton server in front of `PEER_WORKERS` Python callables, with Triton's dynamic batches if asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

from benchmarks.peers import peer_model
from benchmarks.peers.tensor_names import TENSOR_IN, TENSOR_OUT


def instance() -> Callable[..., Any]:
    """One callable over a session of its own."""
    model = peer_model.PeerModel()

    @batch
    def classify(**tensors: Any) -> dict[str, Any]:
        pixels = [model.prepare(row[0]) for row in tensors[TENSOR_IN]]
        answers = [[json.dumps(answer).encode()] for answer in model.run(pixels)]
        return {TENSOR_OUT: np.array(answers, dtype=np.bytes_)}

    made: Callable[..., Any] = classify
    return made


def main() -> None:
    """Serve the model `classify` over Triton's HTTP."""
    largest = peer_model.batch()
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=peer_model.port(),
        allow_grpc=False,
        metrics_address="127.0.0.1",
        metrics_port=int(os.environ["PEER_METRICS_PORT"]),
        log_verbose=0,
    )
    with Triton(config=config, security_config=TritonSecurityConfig(restricted_endpoints=[])) as triton:
        triton.bind(
            model_name="classify",
            infer_func=[instance() for _ in range(peer_model.workers())],
            inputs=[Tensor(name=TENSOR_IN, dtype=bytes, shape=(1,))],
            outputs=[Tensor(name=TENSOR_OUT, dtype=bytes, shape=(1,))],
            config=ModelConfig(max_batch_size=largest, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main()
