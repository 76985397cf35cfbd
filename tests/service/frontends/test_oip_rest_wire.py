"""Bodies of the Open Inference Protocol over HTTP: every way of writing a request is read alike, or refused."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ImageTooLarge, InvalidArgument, MalformedRequest, PhiserveError
from service.frontends.oip_answer import InferAnswer
from service.frontends.oip_rest_wire import RestCall, json_bytes_max, parse_call, write_answer
from service.frontends.oip_tensors import ELEMENTS_MAX, OutputTensor, bytes_elements, join_elements

IMAGE = {"name": "image", "shape": [1], "datatype": "BYTES"}
JSON_BYTES_MAX = 10_000


def parse(body: bytes, header_length: str | None = None, query: bytes = b"") -> RestCall:
    return parse_call(
        body, model="lite0", version="", header_length=header_length, query=query, json_bytes_max=JSON_BYTES_MAX
    )


def request_of(**members: Any) -> dict[str, Any]:
    return {"inputs": [IMAGE | {"data": [base64.b64encode(b"picture").decode()]}]} | members


def binary_request(*contents: bytes, sizes: list[Any] | None = None, **members: Any) -> tuple[bytes, str]:
    """A request with one binary input for each of `contents`, whose stated sizes may lie."""
    inputs = [
        IMAGE | {"parameters": {"binary_data_size": len(content) if sizes is None else sizes[position]}}
        for position, content in enumerate(contents)
    ]
    header = json.dumps({"inputs": inputs} | members).encode()
    return header + b"".join(contents), str(len(header))


def test_json_binary_and_raw_bodies_say_the_same() -> None:
    """One picture in base64, behind the JSON, or as the whole body is the same input."""
    ways = [
        parse(orjson.dumps(request_of())),
        parse(*binary_request(join_elements([b"picture"]))),
        parse(b"picture", "0"),
    ]
    for asked in ways:
        (tensor,) = asked.call.inputs
        assert (tensor.name, tensor.datatype, tensor.shape) == ("image", "BYTES", (1,))
        assert bytes_elements(tensor, 1) == (b"picture",)


def test_binary_inputs_follow_in_their_order() -> None:
    """Each input takes as many bytes as it says, from where the one before ended."""
    asked = parse(*binary_request(join_elements([b"first"]), join_elements([b"second one"])))
    assert [bytes_elements(tensor, 1) for tensor in asked.call.inputs] == [(b"first",), (b"second one",)]


def test_binary_data_may_be_base64_too() -> None:
    """An input that says content_type base64, as MLServer's codec does, holds text in binary form as well."""
    inputs = [IMAGE | {"parameters": {"binary_data_size": 12, "content_type": "base64"}}]
    header = orjson.dumps({"inputs": inputs})
    (tensor,) = parse(header + join_elements([base64.b64encode(b"abcde")]), str(len(header))).call.inputs
    assert bytes_elements(tensor, 1) == (b"abcde",)


@pytest.mark.parametrize(
    ("outputs", "by_default", "binary"),
    [
        (None, False, ()),
        (None, True, None),
        ([{"name": "label"}], False, set()),
        ([{"name": "label"}], True, {"label"}),
        ([{"name": "label", "parameters": {"binary_data": False}}, {"name": "variant"}], True, {"variant"}),
        ([{"name": "label", "parameters": {"binary_data": True}}, {"name": "variant"}], False, {"label"}),
    ],
)
def test_outputs_are_binary_where_that_was_asked(outputs, by_default, binary) -> None:
    """An output's own binary_data goes before the request's binary_data_output; a raw picture asks it for all."""
    body = request_of(outputs=outputs, parameters={"binary_data_output": by_default})
    assert parse(orjson.dumps(body)).binary_outputs == binary
    assert parse(b"picture", "0").binary_outputs is None


def test_parameters_come_from_the_body_and_the_query() -> None:
    """A raw picture has only the query; where both say something the body is believed."""
    assert parse(b"picture", "0", b"budget_ms=20&priority=1").call.parameters == {"budget_ms": "20", "priority": "1"}
    body = orjson.dumps(request_of(parameters={"budget_ms": 30}))
    assert parse(body, query=b"budget_ms=20&priority=1").call.parameters == {"budget_ms": 30, "priority": "1"}


@pytest.mark.parametrize("query", [b"a=1&a=2", b"a=%ff", b"\xff", b"&".join(b"p%d=1" % k for k in range(33))])
def test_a_query_that_cannot_be_read_is_refused(query) -> None:
    """Doubled names, broken encodings and floods are no query."""
    with pytest.raises(InvalidArgument, match="query"):
        parse(b"picture", "0", query)


@pytest.mark.parametrize("length", ["-1", "+5", "5.0", "", "a", "٣", "1e2", "99999", "9" * 30])
def test_a_header_length_that_is_no_length_is_refused(length) -> None:
    """Where JSON ends must be a number within the body; the error shows what was said and received."""
    with pytest.raises(MalformedRequest, match="Inference-Header-Content-Length"):
        parse(orjson.dumps(request_of()), length)


@pytest.mark.parametrize("size", [-1, 0, 6, 8, 1.0, "7", True, None, 10**30, [7]])
def test_a_binary_size_that_lies_is_refused(size) -> None:
    """More, less or something else than the bytes that follow is malformed, whatever JSON can say."""
    body, length = binary_request(b"\x03\0\0\0abc", sizes=[size])
    with pytest.raises(MalformedRequest):
        parse(body, length)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xd8\xff",
        b'{"inputs": 1}',
        b'{"inputs": [1]}',
        b'{"inputs": [{}]}',
        b'{"inputs": [{"name": 1, "shape": [1], "datatype": "BYTES", "data": []}]}',
        b'{"inputs": [{"name": "image", "shape": 1, "datatype": "BYTES", "data": []}]}',
        b'{"inputs": [{"name": "image", "shape": [1.0], "datatype": "BYTES", "data": []}]}',
        b'{"inputs": [{"name": "image", "shape": [true], "datatype": "BYTES", "data": []}]}',
        b'{"inputs": [{"name": "image", "shape": [1], "data": []}]}',
        b'{"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES"}]}',
        b'{"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": "YQ=="}]}',
        b'{"inputs": [], "id": 7}',
        b'{"inputs": [], "parameters": []}',
        b'{"inputs": [], "outputs": [{"parameters": {}}]}',
        b'{"inputs": [], "outputs": [{"name": "label", "parameters": {"binary_data": 1}}]}',
        b'{"inputs": [], "parameters": {"binary_data_output": "yes"}}',
        b'{"inputs": [%s]}' % b",".join([b"{}"] * 17),
        b"[" * 5000,
    ],
)
def test_a_body_that_is_not_the_protocols_json_is_malformed(body) -> None:
    """Syntax, missing members and members of another type are 400 with the member's name, not an internal error."""
    with pytest.raises(MalformedRequest):
        parse(body)


def test_data_in_two_places_is_refused() -> None:
    """An input whose data is in the JSON and behind it is ambiguous."""
    inputs = [IMAGE | {"data": ["YQ=="], "parameters": {"binary_data_size": 5}}]
    header = orjson.dumps({"inputs": inputs})
    with pytest.raises(MalformedRequest, match="both data and binary_data_size"):
        parse(header + join_elements([b"a"]), str(len(header)))


def test_shared_memory_is_refused_with_what_works() -> None:
    """A region of the client's memory is not here; the data must be in the request."""
    inputs = [IMAGE | {"parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 5}}]
    with pytest.raises(InvalidArgument, match="send it in the request"):
        parse(orjson.dumps({"inputs": inputs}))


def test_json_is_bounded_apart_from_binary_data() -> None:
    """A body of numbers is read on the event loop: longer JSON must be binary, and longer binary data is fine."""
    with pytest.raises(ImageTooLarge, match="binary form"):
        parse(orjson.dumps(request_of(id="x" * JSON_BYTES_MAX)))
    parse(*binary_request(join_elements([b"x" * JSON_BYTES_MAX])))
    assert json_bytes_max(30) >= len(base64.b64encode(bytes(30))) + 10_000


def test_json_is_bounded_in_values_before_it_is_read() -> None:
    """A flood of numbers is refused by its commas, valid or not; as many bytes of base64 or binary data are fine."""
    flood = b'{"inputs": [' + b"0," * (ELEMENTS_MAX + 1)
    with pytest.raises(ImageTooLarge, match="500000 JSON values are read; send tensors in binary form"):
        parse_call(flood, model="", version="", header_length=None, query=b"", json_bytes_max=len(flood))
    commas = join_elements([b"," * (ELEMENTS_MAX + 1)])
    body, length = binary_request(commas)
    parse(body, length)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data_size"])


@settings(max_examples=300, deadline=None)
@given(
    tensor=st.dictionaries(MEMBERS, JSON_VALUES),
    document=st.dictionaries(st.sampled_from(["id", "parameters", "outputs", "x"]), JSON_VALUES, max_size=3),
    tail=st.binary(max_size=20),
    header_length=st.none() | st.integers(0, 400).map(str) | st.text(max_size=4),
)
def test_no_request_is_an_internal_error(tensor, document, tail, header_length) -> None:
    """Whatever JSON stands where, and whatever lengths are stated: it is read, or refused with an error of ours."""
    header = orjson.dumps(document | {"inputs": [tensor]})
    with contextlib.suppress(PhiserveError):
        for read in parse(header + tail, header_length).call.inputs:
            bytes_elements(read, 1)


@settings(max_examples=200, deadline=None)
@given(elements=st.lists(st.binary(max_size=30), min_size=1, max_size=4), data=st.data())
def test_no_truncation_of_a_binary_request_passes(elements, data) -> None:
    """A body cut anywhere is refused, since it was announced longer."""
    body, length = binary_request(*(join_elements([element]) for element in elements))
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(MalformedRequest):
        parse(body[:cut], length)


def read_back(content: bytes, header_length: int | None) -> tuple[Mapping[str, Any], bytes]:
    end = len(content) if header_length is None else header_length
    return json.loads(content[:end]), content[end:]


OUTPUTS = (
    OutputTensor("probabilities", "FP32", (1, 2), b"\0\0\x40\x3f\0\0\x80\x3e"),
    OutputTensor("label", "BYTES", (1,), (b"cat",)),
)


def test_an_answer_is_json_or_has_its_tensors_behind_it() -> None:
    """JSON holds the data or its size; binary outputs follow in the order of the JSON, whatever was asked first."""
    answer = InferAnswer("lite0", "1", "42", {"variant": "lite0", "budget_met": True}, OUTPUTS)
    common = {
        "model_name": "lite0",
        "model_version": "1",
        "id": "42",
        "parameters": {"variant": "lite0", "budget_met": True},
    }
    probabilities, label = (
        {"name": "probabilities", "datatype": "FP32", "shape": [1, 2]},
        {"name": "label", "datatype": "BYTES", "shape": [1]},
    )
    plain = write_answer(answer, ())
    assert plain.header_length is None
    assert read_back(plain.content, None) == (
        common | {"outputs": [probabilities | {"data": [0.75, 0.25]}, label | {"data": ["cat"]}]},
        b"",
    )
    mixed = write_answer(answer, {"label"})
    assert read_back(mixed.content, mixed.header_length) == (
        common | {"outputs": [probabilities | {"data": [0.75, 0.25]}, label | {"parameters": {"binary_data_size": 7}}]},
        b"\x03\0\0\0cat",
    )
    binary = write_answer(answer, None)
    assert read_back(binary.content, binary.header_length)[1] == b"\0\0\x40\x3f\0\0\x80\x3e\x03\0\0\0cat"


def test_an_id_that_was_not_given_is_not_answered() -> None:
    """The answer to a request without an id has no id member."""
    assert "id" not in read_back(write_answer(InferAnswer("lite0", "1", "", {}, OUTPUTS), ()).content, None)[0]
