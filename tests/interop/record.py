"""Writes down what a client puts on the wire, for the tests that read it without that client.

Run in the client's own environment, with its name, from this folder:

    .venv-interop/triton/bin/python tests/interop/record.py triton > tests/service/frontends/oip_goldens/triton.json

Each recording is made by the code that the client's own `infer` uses, on fixed input, so that a newer client shows what
it changed. Sends nothing.
"""

from __future__ import annotations

import base64
import json
import sys
from importlib.metadata import version
from typing import Any

PICTURE = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00 not a real picture \xff\xd9"
PIXELS = bytes(range(12))

Recording = dict[str, Any]


def recording(name: str, wire: str, body: bytes, header_length: int | None = None) -> Recording:
    return {"name": name, "wire": wire, "header_length": header_length, "body": base64.b64encode(body).decode()}


def triton() -> tuple[str, list[Recording]]:
    import numpy as np  # noqa: PLC0415 each client's environment has only that client
    import tritonclient.grpc as over_grpc  # noqa: PLC0415
    import tritonclient.http as over_http  # noqa: PLC0415
    from tritonclient.grpc._utils import _get_inference_request  # noqa: PLC0415

    pictures = np.array([PICTURE, PICTURE], dtype=np.object_)
    pixels = np.frombuffer(PIXELS, np.uint8).reshape(2, 1, 2, 3)

    def inputs(wire, name: str, array, datatype: str, **how):
        tensor = wire.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, **how)
        return [tensor]

    def http(name: str, tensors, outputs=None) -> Recording:
        body, length = over_http.InferenceServerClient.generate_request_body(
            tensors, outputs=outputs, request_id="42", priority=3, timeout=250_000, parameters={"on_miss": "late"}
        )
        return recording(name, "http", bytes(body), length)

    def grpc(name: str, tensors, outputs=None) -> Recording:
        message = _get_inference_request(
            model_name="lite0", inputs=tensors, model_version="", request_id="42", outputs=outputs, sequence_id=0,
            sequence_start=False, sequence_end=False, priority=3, timeout=250_000, parameters={"on_miss": "late"},
        )  # fmt: skip
        return recording(name, "grpc", message.SerializeToString(deterministic=True))

    def best(wire):
        return [wire.InferRequestedOutput("probabilities", class_count=3)]

    return "tritonclient", [
        http("pictures", inputs(over_http, "image", pictures, "BYTES")),
        http("classification", inputs(over_http, "image", pictures, "BYTES"), best(over_http)),
        http("pixels", inputs(over_http, "pixels", pixels, "UINT8")),
        http("pixels in JSON", inputs(over_http, "pixels", pixels, "UINT8", binary_data=False)),
        grpc("pictures", inputs(over_grpc, "image", pictures, "BYTES")),
        grpc("classification", inputs(over_grpc, "image", pictures, "BYTES"), best(over_grpc)),
        grpc("pixels", inputs(over_grpc, "pixels", pixels, "UINT8")),
    ]


def kserve() -> tuple[str, list[Recording]]:
    sys.argv = sys.argv[:1]  # the package reads the command line when it is imported
    import numpy as np  # noqa: PLC0415
    import orjson  # noqa: PLC0415
    from kserve import InferInput, InferRequest  # noqa: PLC0415
    from kserve.protocol.infer_type import RequestedOutput  # noqa: PLC0415

    def request(outputs=None, *, data=None, binary: bool = True) -> InferRequest:
        if data is None:
            tensor = InferInput("image", [2], "BYTES")
            tensor.set_data_from_numpy(np.array([PICTURE, PICTURE], dtype=np.object_), binary_data=binary)
        else:
            tensor = InferInput("image", [2], "BYTES", data=data)
        parameters = {"budget_ms": "250.0", "priority": 3, "on_miss": "late"}
        return InferRequest("lite0", [tensor], request_id="42", parameters=parameters, request_outputs=outputs)

    def http(name: str, asked: InferRequest) -> Recording:
        body, length = asked.to_rest()
        return recording(name, "http", body if isinstance(body, bytes) else orjson.dumps(body), length)

    def grpc(name: str, asked: InferRequest) -> Recording:
        return recording(name, "grpc", asked.to_grpc().SerializeToString(deterministic=True))

    best = [RequestedOutput("probabilities", {"classification": 3, "binary_data": True})]
    text = [base64.b64encode(PICTURE).decode()] * 2
    return "kserve", [
        http("pictures", request()),
        http("classification", request(best)),
        http("pictures in JSON", request(data=text)),
        grpc("pictures", request()),
        grpc("classification", request(best)),
        grpc("pictures in contents", request(data=[PICTURE, PICTURE])),
    ]


def mlserver() -> tuple[str, list[Recording]]:
    from mlserver.codecs import Base64Codec  # noqa: PLC0415
    from mlserver.grpc import converters  # noqa: PLC0415
    from mlserver.types import InferenceRequest, Parameters  # noqa: PLC0415

    def request(*, use_bytes: bool) -> InferenceRequest:
        tensor = Base64Codec.encode_input("image", [PICTURE, PICTURE], use_bytes=use_bytes)
        parameters = Parameters(budget_ms="250.0", priority=3, on_miss="late")
        return InferenceRequest(id="42", inputs=[tensor], parameters=parameters)

    def grpc(name: str, *, use_raw: bool) -> Recording:
        message = converters.ModelInferRequestConverter.from_types(
            request(use_bytes=True), model_name="lite0", model_version=None, use_raw=use_raw
        )
        return recording(name, "grpc", message.SerializeToString(deterministic=True))

    return "mlserver", [
        recording("pictures in JSON", "http", request(use_bytes=False).model_dump_json().encode()),
        grpc("pictures in contents", use_raw=False),
        grpc("pictures", use_raw=True),
    ]


def main() -> None:
    package, recordings = {"triton": triton, "kserve": kserve, "mlserver": mlserver}[sys.argv[1]]()
    document = {"client": package, "version": version(package), "recordings": recordings}
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
