"""MLServer's payload types and codecs over HTTP, its gRPC stubs and converters, and `mlserver infer` over a file."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import grpc
import numpy as np
from checks import VARIANT, Checks
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.grpc import converters, dataplane_pb2_grpc
from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse, Parameters, RequestOutput

PATIENT = Parameters(budget_ms=5000)


def request_of(picture: bytes, *, use_bytes: bool, **members) -> InferenceRequest:
    tensor = Base64Codec.encode_input("image", [picture], use_bytes=use_bytes)
    return InferenceRequest(inputs=[tensor], parameters=PATIENT, **members)


def post(checks: Checks, asked: InferenceRequest) -> InferenceResponse:
    request = urllib.request.Request(
        f"{checks.http}/v2/models/{VARIANT}/infer",
        asked.model_dump_json(exclude_none=True).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return InferenceResponse.model_validate_json(response.read())


def check_http(checks: Checks) -> None:
    model = f"{checks.http}/v2/models/{VARIANT}"
    with checks.check("HTTP metadata"), urllib.request.urlopen(model, timeout=30) as response:
        assert MetadataModelResponse.model_validate_json(response.read()).name == VARIANT
    with checks.check("HTTP base64 codec"):
        answer = post(checks, request_of(checks.picture, use_bytes=False, id="42"))
        assert answer.id == "42"
        checks.same_probabilities(NumpyCodec.decode_output(answer.outputs[0])[0])
    with checks.check("HTTP numpy codec"):
        grey = NumpyCodec.encode_input("pixels", np.full((1, 224, 224, 3), 128, np.uint8))
        answer = post(checks, InferenceRequest(inputs=[grey], parameters=PATIENT))
        assert answer.outputs[0].shape == [1, 1000]


def check_grpc(checks: Checks) -> None:
    with grpc.insecure_channel(checks.grpc) as channel:
        server = dataplane_pb2_grpc.GRPCInferenceServiceStub(channel)
        for use_raw in (False, True):
            with checks.check(f"gRPC base64 codec, {'raw' if use_raw else 'typed'} contents"):
                asked = request_of(checks.picture, use_bytes=True)
                message = converters.ModelInferRequestConverter.from_types(
                    asked, model_name=VARIANT, model_version=None, use_raw=use_raw
                )
                answer = converters.ModelInferResponseConverter.to_types(server.ModelInfer(message, timeout=30))
                checks.same_probabilities(NumpyCodec.decode_output(answer.outputs[0])[0])
        with checks.check("gRPC requested outputs"):
            asked = request_of(checks.picture, use_bytes=True, outputs=[RequestOutput(name="label")])
            message = converters.ModelInferRequestConverter.from_types(asked, model_name=VARIANT, model_version=None)
            answer = converters.ModelInferResponseConverter.to_types(server.ModelInfer(message, timeout=30))
            assert answer.outputs[0].data.root[0].decode() == checks.classes(1)[0][1]


def check_command(checks: Checks) -> None:
    with checks.check("mlserver infer"), tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "asked.jsonl", Path(folder) / "answered.jsonl"
        line = request_of(checks.picture, use_bytes=False).model_dump_json(exclude_none=True)
        asked.write_text(f"{line}\n" * 3)
        command = [
            Path(sys.executable).parent / "mlserver", "infer", "--url", checks.http.removeprefix("http://"),
            "--model-name", VARIANT, "--input-data-path", asked, "--output-data-path", answered,
            "--workers", "2", "--batch-size", "1",
        ]  # fmt: skip
        subprocess.run(command, check=True, timeout=100, capture_output=True)
        answers = [json.loads(each) for each in answered.read_text().splitlines()]
        assert [answer["parameters"]["variant"] for answer in answers] == [VARIANT] * 3
        for answer in answers:
            checks.same_probabilities(answer["outputs"][0]["data"])


def main() -> None:
    checks = Checks("mlserver")
    check_http(checks)
    check_grpc(checks)
    check_command(checks)
    checks.finish()


if __name__ == "__main__":
    main()
