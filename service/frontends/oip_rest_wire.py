"""Bodies of the Open Inference Protocol over HTTP: JSON, JSON with binary tensors behind it, or one raw picture.

The header `Inference-Header-Content-Length` says where JSON ends and binary data begins (KServe, "Binary Tensor Data
Extension"); 0 says that there is no JSON, and that the body is the one element of the model's BYTES input. No size that
a caller states is believed before it is compared with what was sent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import orjson

from service.errors import ImageTooLarge, InvalidArgument, MalformedRequest
from service.frontends.oip_answer import InferAnswer
from service.frontends.oip_models import IMAGE
from service.frontends.oip_request import InferCall, OutputRequest, check_input_parameters
from service.frontends.oip_tensors import BYTES, ELEMENTS_MAX, InputTensor, OutputTensor, shown

HEADER_LENGTH = "Inference-Header-Content-Length"

JSON_MEDIA_TYPE = "application/json"
BINARY_MEDIA_TYPE = "application/octet-stream"

_TENSORS_MAX = 16
_QUERY_FIELDS_MAX = 32
_JSON_ENVELOPE_BYTES = 64 * 2**10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RestCall:
    """A request and the names of the outputs that it wants in binary form; None stands for all."""

    call: InferCall
    binary_outputs: Collection[str] | None


@dataclass(frozen=True, slots=True)
class RestBody:
    """An answer's body. `header_length`: where its JSON ends; None if it is all JSON."""

    content: bytes
    header_length: int | None


def json_bytes_max(image_bytes_max: int) -> int:
    """The most bytes of JSON that are read: room for the largest picture in base64."""
    return -(-image_bytes_max // 3) * 4 + _JSON_ENVELOPE_BYTES


def parse_call(
    body: bytes, *, model: str, version: str, header_length: str | None, query: bytes, json_bytes_max: int
) -> RestCall:
    """Read a whole body. `header_length` is the header's text, None if it was not sent.

    Parameters may also come in `query`, which is all a raw picture has room for; those in the body come first.

    Raises:
        MalformedRequest: not the protocol's JSON, or sizes that do not fit the body.
        ImageTooLarge: more JSON than is read, in bytes or in values.
        InvalidArgument: an input in shared memory, or a query that cannot be read.
    """
    end = len(body) if header_length is None else _header_end(header_length, len(body))
    query_parameters = _query(query)
    if header_length is not None and end == 0:
        picture = InputTensor(IMAGE.name, BYTES, (1,), elements=(body,))
        return RestCall(InferCall(model, version, "", query_parameters, (picture,), ()), None)
    if end > json_bytes_max:
        raise ImageTooLarge(f"at most {json_bytes_max} bytes of JSON are read; send tensors in binary form behind it")
    # Known before it is read: values are told apart by commas, and base64 has none.
    if body.count(b",", 0, end) > ELEMENTS_MAX:
        raise ImageTooLarge(f"at most {ELEMENTS_MAX} JSON values are read; send tensors in binary form behind it")
    document = _loads(body[:end])
    parameters = _get(document, "parameters", dict, {})
    outputs = tuple(_output(item) for item in _objects(document, "outputs"))
    call = InferCall(
        model=model,
        version=version,
        id=_get(document, "id", str, ""),
        parameters=query_parameters | parameters,
        inputs=_inputs(document, body, None if header_length is None else end),
        outputs=outputs,
    )
    return RestCall(call, _binary_outputs(outputs, _get(parameters, "binary_data_output", bool, default=False)))


def write_answer(answer: InferAnswer, binary_outputs: Collection[str] | None) -> RestBody:
    """The body for `answer`, with `binary_outputs` (None: all) behind the JSON, in the order they have there."""
    parts: list[bytes] = []
    document: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version}
    if answer.id:
        document["id"] = answer.id
    document["parameters"] = answer.parameters
    document["outputs"] = [
        _written(output, parts if binary_outputs is None or output.name in binary_outputs else None)
        for output in answer.outputs
    ]
    header = orjson.dumps(document)
    return RestBody(b"".join((header, *parts)), len(header) if parts else None)


def _written(output: OutputTensor, parts: list[bytes] | None) -> dict[str, Any]:
    """An output as JSON, its data either in it or appended to `parts`."""
    tensor: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
    if parts is None:
        return tensor | {"data": output.to_elements()}
    parts.append(output.to_binary())
    return tensor | {"parameters": {"binary_data_size": len(parts[-1])}}


def _header_end(text: str, body_length: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20) or int(text) > body_length:
        raise MalformedRequest(
            f"{HEADER_LENGTH} is {shown(text)}; it must be the length of the JSON at the start of the body, whose "
            f"{body_length} bytes were received, or 0 for a body that is a picture"
        )
    return int(text)


def _query(query: bytes) -> dict[str, Any]:
    try:
        text = query.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_QUERY_FIELDS_MAX)
    except ValueError:
        raise InvalidArgument(
            f"the query string must be percent-encoded UTF-8 of at most {_QUERY_FIELDS_MAX} parameters"
        ) from None
    if len(dict(pairs)) < len(pairs):
        raise InvalidArgument("a parameter is given more than once in the query string; give it once")
    return dict(pairs)


def _loads(text: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(
            f"the body is not JSON ({error}); send an inference request object, with its length in {HEADER_LENGTH} if "
            f"binary data follows, or a picture with {HEADER_LENGTH}: 0"
        ) from None
    if not isinstance(document, dict):
        raise MalformedRequest("the body must be an inference request object with a member 'inputs'")
    return document


def _inputs(document: dict[str, Any], body: bytes, binary_start: int | None) -> tuple[InputTensor, ...]:
    """The inputs, each with its data from the JSON or, from `binary_start` on, the bytes behind it."""
    inputs = []
    offset = len(body) if binary_start is None else binary_start
    for item in _objects(document, "inputs"):
        name = _get(item, "name", str)
        parameters = _get(item, "parameters", dict, {})
        check_input_parameters(name, parameters)
        raw = None
        if "binary_data_size" in parameters:
            size = _binary_size(name, parameters["binary_data_size"], len(body) - offset, item)
            raw, offset = body[offset : offset + size], offset + size
        inputs.append(
            InputTensor(
                name=name,
                datatype=_get(item, "datatype", str),
                shape=_shape(name, _get(item, "shape", list)),
                raw=raw,
                elements=() if raw is not None else _get(item, "data", list),
                is_base64=raw is None or parameters.get("content_type") == "base64",
            )
        )
    if offset != len(body):
        raise MalformedRequest(
            f"{len(body) - offset} bytes follow that belong to no input; say each input's binary_data_size"
        )
    return tuple(inputs)


def _binary_size(name: str, size: object, left: int, item: dict[str, Any]) -> int:
    if "data" in item:
        raise MalformedRequest(f"input {shown(name)} has both data and binary_data_size; send one of them")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= left:
        raise MalformedRequest(
            f"input {shown(name)} has binary_data_size {shown(str(size))}, but {left} bytes of binary data are left; "
            f"{HEADER_LENGTH} says where they begin"
        )
    return size


def _shape(name: str, sizes: list[Any]) -> tuple[int, ...]:
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes):
        raise MalformedRequest(f"the shape of input {shown(name)} must be a list of integers")
    return tuple(sizes)


def _output(item: dict[str, Any]) -> OutputRequest:
    return OutputRequest(_get(item, "name", str), _get(item, "parameters", dict, {}))


def _binary_outputs(outputs: tuple[OutputRequest, ...], by_default: bool) -> Collection[str] | None:  # noqa: FBT001 the protocol's own flag
    if not outputs:
        return None if by_default else ()
    return {output.name for output in outputs if _get(output.parameters, "binary_data", bool, default=by_default)}


def _objects(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    items = _get(document, name, list, [])
    if len(items) > _TENSORS_MAX or not all(isinstance(item, dict) for item in items):
        raise MalformedRequest(f"{name} must be a list of at most {_TENSORS_MAX} objects")
    return items


def _get(document: Mapping[str, Any], name: str, kind: type[T], default: T | None = None) -> T:
    """A member that must be of `kind`, or may be absent or null if there is a default."""
    value = document.get(name)
    if value is None:
        value = default
    if not isinstance(value, kind):
        raise MalformedRequest(f"{name!r} must be a JSON {_JSON_NAMES[kind]}, got {shown(str(value))}")
    return value


_JSON_NAMES: Mapping[type, str] = {str: "string", list: "array", dict: "object", bool: "boolean"}
