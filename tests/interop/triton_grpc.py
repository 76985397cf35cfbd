"""Triton's gRPC client: health, metadata, tensors, classification, asynchrony, a stream, deadlines, errors."""

from __future__ import annotations

import asyncio
import queue

import numpy as np
import tritonclient.grpc as client
from checks import PATIENT, VARIANT, Checks
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

ANSWER_TIMEOUT_S = 30


def image(picture: bytes, count: int = 1):
    tensor = client.InferInput("image", [count], "BYTES")
    tensor.set_data_from_numpy(np.array([picture] * count, dtype=np.object_))
    return tensor


async def infer_async(checks: Checks) -> np.ndarray:
    async with aio.InferenceServerClient(checks.grpc) as server:
        answer = await server.infer(VARIANT, [image(checks.picture)], parameters=PATIENT)
        return answer.as_numpy("probabilities")


def check_answers(checks: Checks, server: client.InferenceServerClient) -> None:
    with checks.check("binary"):
        answer = server.infer(VARIANT, [image(checks.picture, 2)], request_id="42", parameters=PATIENT)
        assert answer.get_response().id == "42"
        for row in answer.as_numpy("probabilities"):
            checks.same_probabilities(row)
    with checks.check("classification"):
        wanted = [client.InferRequestedOutput("probabilities", class_count=3), client.InferRequestedOutput("label")]
        answer = server.infer(VARIANT, [image(checks.picture)], outputs=wanted, parameters=PATIENT)
        checks.same_classification(answer.as_numpy("probabilities")[0])
        assert answer.as_numpy("label")[0].decode() == checks.classes(1)[0][1]
    with checks.check("pixels"):
        grey = np.full((2, 224, 224, 3), 128, np.uint8)
        tensor = client.InferInput("pixels", list(grey.shape), "UINT8")
        tensor.set_data_from_numpy(grey)
        assert server.infer(VARIANT, [tensor], parameters=PATIENT).as_numpy("probabilities").shape == (2, 1000)
    with checks.check("compressed"):
        answer = server.infer(VARIANT, [image(checks.picture)], parameters=PATIENT, compression_algorithm="gzip")
        checks.same_probabilities(answer.as_numpy("probabilities")[0])
    with checks.check("async"):
        answers: queue.Queue = queue.Queue()
        server.async_infer(
            VARIANT,
            [image(checks.picture)],
            lambda result, error: answers.put((result, error)),
            parameters=PATIENT,
        )
        result, error = answers.get(timeout=ANSWER_TIMEOUT_S)
        assert error is None, error
        checks.same_probabilities(result.as_numpy("probabilities")[0])
    with checks.check("asyncio"):
        checks.same_probabilities(asyncio.run(infer_async(checks))[0])


def check_stream(checks: Checks, server: client.InferenceServerClient) -> None:
    with checks.check("stream"):
        answers: queue.Queue = queue.Queue()
        server.start_stream(lambda result, error: answers.put((result, error)))
        for position, model in enumerate((VARIANT, "nothing", VARIANT)):
            server.async_stream_infer(model, [image(checks.picture)], request_id=str(position), parameters=PATIENT)
        first, failed, last = (answers.get(timeout=ANSWER_TIMEOUT_S) for _ in range(3))
        server.stop_stream()
        assert (first[0].get_response().id, last[0].get_response().id) == ("0", "2")
        assert "no model is named 'nothing'" in failed[1].message()
        checks.same_probabilities(last[0].as_numpy("probabilities")[0])


def check_errors(checks: Checks, server: client.InferenceServerClient) -> None:
    for name, status, asked in (
        ("unknown model", "NOT_FOUND", {"model_name": "nothing"}),
        ("unknown version", "NOT_FOUND", {"model_version": "9"}),
        ("unknown parameter", "INVALID_ARGUMENT", {"parameters": {"budget": 1}}),
        ("timeout", "DEADLINE_EXCEEDED", {"timeout": 1}),
        ("deadline", "DEADLINE_EXCEEDED", {"client_timeout": 0.002}),
    ):

        def has_status(error: InferenceServerException, expected: str = status) -> bool:
            return error.status() == f"StatusCode.{expected}"

        with checks.check_error(name, InferenceServerException, has_status):
            server.infer(**{"model_name": VARIANT, "inputs": [image(checks.picture)]} | asked)


def main() -> None:
    checks = Checks("tritonclient")
    server = client.InferenceServerClient(checks.grpc)
    with checks.check("health"):
        assert server.is_server_live()
        assert server.is_server_ready()
        assert server.is_model_ready(VARIANT, "1")
    with checks.check("metadata"):
        assert server.get_server_metadata().name == "phiserve"
        assert list(server.get_model_metadata(VARIANT).outputs[0].shape) == [-1, 1000]
        assert server.get_model_config(VARIANT).config.name == VARIANT
        assert VARIANT in {row.name for row in server.get_model_repository_index().models if row.state == "READY"}
    check_answers(checks, server)
    check_stream(checks, server)
    with checks.check("statistics"):
        (row,) = server.get_inference_statistics(VARIANT).model_stats
        assert row.inference_count >= 7
        assert row.inference_stats.success.ns > 0
    check_errors(checks, server)
    checks.finish()


if __name__ == "__main__":
    main()
