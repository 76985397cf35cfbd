"""Triton's HTTP client: health, metadata, every way of writing tensors, classification, asynchrony, errors."""

from __future__ import annotations

import asyncio

import numpy as np
import tritonclient.http as client
from checks import PATIENT, VARIANT, Checks
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException


def image(picture: bytes, count: int = 1, kind=client.InferInput):
    tensor = kind("image", [count], "BYTES")
    tensor.set_data_from_numpy(np.array([picture] * count, dtype=np.object_))
    return tensor


def pixels(count: int, *, binary: bool):
    grey = np.full((count, 224, 224, 3), 128, np.uint8)
    tensor = client.InferInput("pixels", list(grey.shape), "UINT8")
    tensor.set_data_from_numpy(grey, binary_data=binary)
    return tensor


async def infer_async(checks: Checks) -> np.ndarray:
    async with aio.InferenceServerClient(checks.http.removeprefix("http://")) as server:
        answer = await server.infer(VARIANT, [image(checks.picture, kind=aio.InferInput)], parameters=PATIENT)
        return answer.as_numpy("probabilities")


def check_answers(checks: Checks, server: client.InferenceServerClient) -> None:
    with checks.check("binary"):
        answer = server.infer(VARIANT, [image(checks.picture, 2)], request_id="42", parameters=PATIENT)
        assert answer.get_response()["id"] == "42"
        for row in answer.as_numpy("probabilities"):
            checks.same_probabilities(row)
    with checks.check("JSON outputs"):
        wanted = [client.InferRequestedOutput("probabilities", binary_data=False), client.InferRequestedOutput("label")]
        answer = server.infer(VARIANT, [image(checks.picture)], outputs=wanted, parameters=PATIENT)
        checks.same_probabilities(answer.as_numpy("probabilities")[0])
        assert answer.as_numpy("label")[0].decode() == checks.classes(1)[0][1]
    for binary in (True, False):
        with checks.check(f"classification, {'binary' if binary else 'JSON'}"):
            wanted = [client.InferRequestedOutput("probabilities", class_count=3, binary_data=binary)]
            answer = server.infer(VARIANT, [image(checks.picture)], outputs=wanted, parameters=PATIENT)
            checks.same_classification(answer.as_numpy("probabilities")[0])
        with checks.check(f"pixels, {'binary' if binary else 'JSON'}"):
            answer = server.infer(VARIANT, [pixels(2, binary=binary)], parameters=PATIENT)
            assert answer.as_numpy("probabilities").shape == (2, 1000)
    with checks.check("async"):
        calls = [server.async_infer(VARIANT, [image(checks.picture)], parameters=PATIENT) for _ in range(4)]
        for call in calls:
            checks.same_probabilities(call.get_result().as_numpy("probabilities")[0])
    with checks.check("asyncio"):
        checks.same_probabilities(asyncio.run(infer_async(checks))[0])
    with checks.check("routing by budget"):
        told = server.infer("efficientnet", [image(checks.picture)], parameters=PATIENT).get_response()["parameters"]
        assert told["variant"]
        assert told["budget_ms"] == 5000
        assert told["total_ms"] > 0
    with checks.check("raw body"):
        answer = server._post(
            f"v2/models/{VARIANT}/infer", checks.picture, {"Inference-Header-Content-Length": "0"}, PATIENT
        )
        checks.same_probabilities(client.InferResult(answer, verbose=False).as_numpy("probabilities")[0])


def main() -> None:
    checks = Checks("tritonclient")
    server = client.InferenceServerClient(checks.http.removeprefix("http://"), concurrency=4)
    with checks.check("health"):
        assert server.is_server_live()
        assert server.is_server_ready()
        assert server.is_model_ready(VARIANT, "1")
        assert not server.is_model_ready("nothing")
    with checks.check("metadata"):
        assert server.get_server_metadata()["name"] == "phiserve"
        assert server.get_model_metadata(VARIANT)["outputs"][0]["shape"] == [-1, 1000]
        assert server.get_model_config(VARIANT)["name"] == VARIANT
        assert VARIANT in {row["name"] for row in server.get_model_repository_index() if row["state"] == "READY"}
    check_answers(checks, server)
    with checks.check("statistics"):
        (row,) = server.get_inference_statistics(VARIANT)["model_stats"]
        assert row["inference_count"] >= 9
        assert row["inference_stats"]["success"]["ns"] > 0
    for name, status, asked in (
        ("unknown model", "404", {"model_name": "nothing"}),
        ("unknown version", "404", {"model_version": "9"}),
        ("unknown parameter", "422", {"parameters": {"budget": 1}}),
        ("timeout", "504", {"timeout": 1}),
    ):

        def has_status(error: InferenceServerException, expected: str = status) -> bool:
            return error.status() == expected

        with checks.check_error(name, InferenceServerException, has_status):
            server.infer(**{"model_name": VARIANT, "inputs": [image(checks.picture)]} | asked)
    checks.finish()


if __name__ == "__main__":
    main()
