"""KServe's InferenceRESTClient and InferenceGRPCClient: health, binary and JSON tensors, classification, errors."""

from __future__ import annotations

import asyncio
import base64

import grpc
import httpx
import numpy as np
from checks import VARIANT, Checks
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

# KServe's gRPC client cannot send fractions, so parameters may be text.
PATIENT = {"budget_ms": "5000.0"}


def request_of(picture: bytes, model: str = VARIANT, outputs=None) -> InferRequest:
    tensor = InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([picture], dtype=np.object_), binary_data=True)
    return InferRequest(model_name=model, infer_inputs=[tensor], request_outputs=outputs, parameters=PATIENT)


def best_three(*, binary: bool) -> list[RequestedOutput]:
    return [RequestedOutput("probabilities", {"classification": 3, "binary_data": binary})]


async def check_rest(checks: Checks) -> None:
    server = InferenceRESTClient(RESTConfig(protocol="v2"))
    with checks.check("REST health"):
        assert await server.is_server_live(checks.http)
        assert await server.is_server_ready(checks.http)
        assert await server.is_model_ready(checks.http, VARIANT)
        assert not await server.is_model_ready(checks.http, "nothing")
    with checks.check("REST binary"):
        answer = await server.infer(checks.http, request_of(checks.picture), model_name=VARIANT)
        checks.same_probabilities(answer.outputs[0].as_numpy()[0])
        assert answer.parameters["variant"] == VARIANT
    for binary in (True, False):
        with checks.check(f"REST classification, {'binary' if binary else 'JSON'}"):
            asked = request_of(checks.picture, outputs=best_three(binary=binary))
            answer = await server.infer(checks.http, asked, model_name=VARIANT)
            checks.same_classification(np.array(answer.outputs[0].data).flatten())
    with checks.check("REST JSON pixels"):
        tensor = InferInput("pixels", [1, 224, 224, 3], "UINT8")
        tensor.set_data_from_numpy(np.full((1, 224, 224, 3), 128, np.uint8), binary_data=False)
        asked = InferRequest(model_name=VARIANT, infer_inputs=[tensor], parameters=PATIENT)
        answer = await server.infer(checks.http, asked, model_name=VARIANT)
        assert answer.outputs[0].shape == [1, 1000]
    with checks.check("REST base64 dictionary"):
        data = [base64.b64encode(checks.picture).decode()]
        asked = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": data}], "parameters": PATIENT}
        answer = await server.infer(checks.http, asked, model_name=VARIANT)
        checks.same_probabilities(answer.outputs[0].data)
    with checks.check_error(
        "REST unknown model",
        httpx.HTTPStatusError,
        lambda error: error.response.status_code == 404 and "no model is named 'nothing'" in str(error),
    ):
        await server.infer(checks.http, request_of(checks.picture, "nothing"), model_name="nothing")
    await server.close()


async def check_grpc(checks: Checks) -> None:
    async with InferenceGRPCClient(checks.grpc) as server:
        with checks.check("gRPC health"):
            assert await server.is_server_live()
            assert await server.is_server_ready()
            assert await server.is_model_ready(VARIANT)
        with checks.check("gRPC raw contents"):
            answer = await server.infer(request_of(checks.picture))
            checks.same_probabilities(answer.outputs[0].as_numpy()[0])
        with checks.check("gRPC contents"):
            asked = InferRequest(
                model_name=VARIANT,
                infer_inputs=[InferInput("image", [1], "BYTES", data=[checks.picture])],
                parameters=PATIENT,
            )
            checks.same_probabilities((await server.infer(asked)).outputs[0].as_numpy()[0])
        with checks.check("gRPC classification"):
            answer = await server.infer(request_of(checks.picture, outputs=best_three(binary=True)))
            checks.same_classification(answer.outputs[0].as_numpy()[0])
        with checks.check_error(
            "gRPC unknown model", grpc.RpcError, lambda error: error.code() is grpc.StatusCode.NOT_FOUND
        ):
            await server.infer(request_of(checks.picture, "nothing"))


async def main() -> None:
    checks = Checks("kserve")
    await check_rest(checks)
    await check_grpc(checks)
    checks.finish()


if __name__ == "__main__":
    asyncio.run(main())
