"""The Open Inference Protocol's messages, written anew, have the numbers that the protocol gave them."""

from __future__ import annotations

import pytest

from service.frontends.inference import open_inference_pb2 as pb

# From the protocol's own descriptions; Triton's and KServe's packages agree on every one.
NUMBERS = {
    "ModelInferRequest": {
        "model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "inputs": 5, "outputs": 6,
        "raw_input_contents": 7,
    },
    "ModelInferResponse": {
        "model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "outputs": 5, "raw_output_contents": 6,
    },
    "InferParameter": {
        "bool_param": 1, "int64_param": 2, "string_param": 3, "double_param": 4, "uint64_param": 5,
    },
    "InferTensorContents": {
        "bool_contents": 1, "int_contents": 2, "int64_contents": 3, "uint_contents": 4, "uint64_contents": 5,
        "fp32_contents": 6, "fp64_contents": 7, "bytes_contents": 8,
    },
    "ModelMetadataResponse": {"name": 1, "versions": 2, "platform": 3, "inputs": 4, "outputs": 5},
    "ModelStreamInferResponse": {"error_message": 1, "infer_response": 2},
    "ModelConfig": {"name": 1, "platform": 2, "max_batch_size": 4, "input": 5, "output": 6, "backend": 17},
    "ModelInput": {"name": 1, "data_type": 2, "dims": 4, "optional": 8},
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_fields_have_the_protocols_numbers(name) -> None:
    """A number that changed would be another field to every client there is."""
    assert {field.name: field.number for field in pb.DESCRIPTOR.message_types_by_name[name].fields} == NUMBERS[name]
