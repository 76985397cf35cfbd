"""Messages of the Open Inference Protocol over gRPC, to and from the values that both of its wires share.

Tensors are read from `contents` or from `raw_input_contents`, and always written to `raw_output_contents`, which every
client reads. Reads no meaning into any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import ImageTooLarge, MalformedRequest
from service.frontends.inference import open_inference_pb2 as pb
from service.frontends.oip_answer import InferAnswer, ParameterValue
from service.frontends.oip_request import InferCall, OutputRequest, check_input_parameters
from service.frontends.oip_tensors import BYTES, ELEMENTS_MAX, UINT8, InputTensor, shown


def parse_call(request: pb.ModelInferRequest) -> InferCall:
    """The request as it came.

    Raises:
        MalformedRequest: raw contents that are not one for each input, or a parameter without a value.
        ImageTooLarge: more pixels outside of the raw contents than are read there.
        InvalidArgument: an input in shared memory.
    """
    return InferCall(
        model=request.model_name,
        version=request.model_version,
        id=request.id,
        parameters=_parameters(request.parameters),
        inputs=_inputs(request),
        outputs=tuple(OutputRequest(output.name, _parameters(output.parameters)) for output in request.outputs),
    )


def write_answer(answer: InferAnswer) -> pb.ModelInferResponse:
    """The message for `answer`."""
    return pb.ModelInferResponse(
        model_name=answer.model,
        model_version=answer.version,
        id=answer.id,
        parameters={name: _parameter(value) for name, value in answer.parameters.items()},
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(name=output.name, datatype=output.datatype, shape=output.shape)
            for output in answer.outputs
        ],
        raw_output_contents=[output.to_binary() for output in answer.outputs],
    )


def _inputs(request: pb.ModelInferRequest) -> tuple[InputTensor, ...]:
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise MalformedRequest(
            f"{len(raws)} raw_input_contents were sent for {len(request.inputs)} inputs; send one for each, or none"
        )
    return tuple(_input(tensor, raws[position] if raws else None) for position, tensor in enumerate(request.inputs))


def _input(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> InputTensor:
    parameters = _parameters(tensor.parameters)
    check_input_parameters(tensor.name, parameters)
    # MLServer's converter sets contents without anything in them beside raw ones.
    if raw is not None and tensor.contents.ByteSize():
        raise MalformedRequest(f"input {shown(tensor.name)} has both contents and raw_input_contents; send one of them")
    return InputTensor(
        name=tensor.name,
        datatype=tensor.datatype,
        shape=tuple(tensor.shape),
        raw=raw,
        elements=() if raw is not None else _elements(tensor.datatype, tensor.contents),
        is_base64=parameters.get("content_type") == "base64",
    )


def _elements(datatype: str, contents: pb.InferTensorContents) -> Sequence[Any]:
    """The elements in the field of `datatype`; none for a datatype that no input here has."""
    if datatype == BYTES:
        return list(contents.bytes_contents)
    if datatype == UINT8:
        if len(contents.uint_contents) > ELEMENTS_MAX:
            raise ImageTooLarge(f"at most {ELEMENTS_MAX} uint_contents are read; send raw_input_contents")
        return list(contents.uint_contents)
    return ()


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    values = {}
    for name, parameter in parameters.items():
        field = parameter.WhichOneof("parameter_choice")
        if field is None:
            raise MalformedRequest(f"parameter {shown(name)} has no value")
        values[name] = getattr(parameter, field)
    return values


def _parameter(value: ParameterValue) -> pb.InferParameter:
    match value:
        case bool():
            return pb.InferParameter(bool_param=value)
        case int():
            return pb.InferParameter(int64_param=value)
        case float():
            return pb.InferParameter(double_param=value)
        case str():
            return pb.InferParameter(string_param=value)
