"""Requests of the Open Inference Protocol become pictures and options within the bounds of REST, or say what works."""

from __future__ import annotations

import pytest

from service.core.request import OnMiss, RawPixels, RequestOptions, RoutingPolicy
from service.errors import ImageTooLarge, InvalidArgument, MalformedRequest, UnknownVariant
from service.frontends.oip_models import Models
from service.frontends.oip_request import InferCall, InferWork, OipLimits, OutputRequest, RequestReader, WantedOutput
from service.frontends.oip_tensors import InputTensor, join_elements
from tests.fakes.engine import ScriptedEngine
from tests.fakes.menus import MS

LIMITS = OipLimits(image_bytes_max=100, body_bytes_max=1000, images_max=4, top_k_max=20)


def image(*contents: bytes, shape: tuple[int, ...] | None = None, **members) -> InputTensor:
    members = {"name": "image", "datatype": "BYTES", "raw": join_elements(contents)} | members
    return InputTensor(shape=shape or (len(contents),), **members)


def pixels(*shape: int, raw: bytes | None = None) -> InputTensor:
    size = 1
    for side in shape:
        size *= side
    return InputTensor("pixels", "UINT8", shape, raw=bytes(range(size)) if raw is None else raw)


def read(
    *inputs: InputTensor, model: str = "efficientnet", outputs=(), deadline_ns: int | None = None, **parameters
) -> InferWork:
    engine = ScriptedEngine()
    asked = tuple(OutputRequest(name, output_parameters) for name, output_parameters in outputs)
    call = InferCall(model, "", "", parameters, inputs or (image(b"picture"),), asked)
    return RequestReader(engine, Models(engine), LIMITS).read(call, deadline_ns)


def test_a_plain_request_leaves_everything_to_the_server() -> None:
    """One picture for the routing model has no budget, no pin, and asks for every probability."""
    work = read(image(b"picture"))
    assert (work.pictures, work.options, work.outputs) == (
        (b"picture",),
        RequestOptions(top_k=1),
        (WantedOutput("probabilities"),),
    )


def test_a_variants_own_model_is_pinned_to_it() -> None:
    """The name of a model is the variant that answers; other options stay as they were given."""
    work = read(model="large", priority=3)
    assert work.options.policy == RoutingPolicy(variant="large", priority=3)


@pytest.mark.parametrize("as_text", [False, True], ids=["numbers", "strings"])
def test_every_parameter_means_what_it_means_in_rest(as_text) -> None:
    """Numbers and strings are taken alike: KServe's client cannot send a fraction in any other way than as text."""
    given = {"budget_ms": 12.5, "min_accuracy": 80, "target_ms": 9, "priority": 7}
    parameters = {name: str(value) if as_text else value for name, value in given.items()}
    assert read(**parameters, on_miss="late", variant="b3").options == RequestOptions(
        budget_ns=12_500_000,
        top_k=1,
        policy=RoutingPolicy(variant="b3", min_accuracy=80.0, target_ns=9 * MS, on_miss=OnMiss.LATE, priority=7),
    )


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        ({"budget": 5}, "known are budget_ms, variant, min_accuracy, target_ms, priority, on_miss"),
        ({"top_k": 5}, "no parameter is named 'top_k'"),
        ({"budget_ms": 0}, "budget_ms must be a number of milliseconds above 0 and at most 60000, got '0'"),
        ({"budget_ms": 60_001}, "at most 60000"),
        ({"budget_ms": -1}, "above 0"),
        ({"budget_ms": float("nan")}, "above 0"),
        ({"budget_ms": True}, "got 'True'"),
        ({"budget_ms": [5]}, "must be a number or a string"),
        ({"min_accuracy": 101}, "a number of percent from 0 to 100"),
        ({"priority": 10}, "an integer from 0 to 9"),
        ({"priority": 1.5}, "an integer from 0 to 9"),
        ({"on_miss": "never"}, "reject or late"),
        ({"timeout": -1}, "microseconds"),
        ({"timeout": "soon"}, "microseconds"),
        ({"timeout": 1.5}, "microseconds"),
        ({"classification": 0}, "an integer from 1 to 20"),
        ({"classification": 21}, "an integer from 1 to 20"),
        ({"classification": "many"}, "an integer from 1 to 20"),
        ({"classification": True}, "an integer from 1 to 20"),
    ],
)
def test_parameters_out_of_range_are_refused_with_what_works(parameters, detail) -> None:
    """Limits and messages are those of REST: nothing is clipped and nothing unknown is passed over."""
    with pytest.raises(InvalidArgument) as refused:
        read(**parameters)
    assert detail in refused.value.detail


def test_a_pinned_model_takes_no_other_pin() -> None:
    """`variant` contradicts the model's name, so that model does not know it."""
    with pytest.raises(InvalidArgument, match="no parameter is named 'variant'"):
        read(model="large", variant="b3")


@pytest.mark.parametrize(
    ("budget_ms", "timeout_us", "deadline_ns", "budget_ns"),
    [
        (20, 30_000, 40 * MS, 20 * MS),
        (None, 30_000, 40 * MS, 30 * MS),
        (None, None, 40 * MS, 40 * MS),
        (None, 0, 40 * MS, 40 * MS),
        (None, 0, None, None),
        (None, 100_000_000, None, 60_000 * MS),
        (None, None, 100_000 * MS, 60_000 * MS),
        (None, None, -5, 1),
    ],
)
def test_the_nearest_statement_of_a_budget_counts(budget_ms, timeout_us, deadline_ns, budget_ns) -> None:
    """budget_ms, else timeout (0 is none), else the wire's deadline; waits beyond the largest budget are cut to it."""
    parameters = {"budget_ms": budget_ms, "timeout": timeout_us}
    given = {name: value for name, value in parameters.items() if value is not None}
    assert read(deadline_ns=deadline_ns, **given).options.budget_ns == budget_ns


def test_what_clients_add_by_themselves_changes_nothing() -> None:
    """Codec hints, sequence marks and Triton's own parameters are neither options nor errors."""
    work = read(
        binary_data_output=True, content_type="base64", headers={}, sequence_id=1, sequence_start=True,
        sequence_end=False, triton_enable_empty_final_response=True,
    )  # fmt: skip
    assert work.options == RequestOptions(top_k=1)


def test_pictures_come_in_one_or_two_dimensions() -> None:
    """[N] is the protocol's; [N, 1] is how MLServer's codecs write a list."""
    assert read(image(b"a", b"b")).pictures == (b"a", b"b")
    assert read(image(b"a", b"b", shape=(2, 1))).pictures == (b"a", b"b")


def test_pixels_are_cut_into_pictures() -> None:
    """[N, height, width, 3] is N pictures of that size, in order."""
    assert read(pixels(2, 1, 2, 3)).pictures == (
        RawPixels(width=2, height=1, data=bytes(range(6))),
        RawPixels(width=2, height=1, data=bytes(range(6, 12))),
    )


@pytest.mark.parametrize(
    ("inputs", "detail"),
    [
        ((image(b"a"), image(b"b")), "has 2 inputs; send one"),
        ((image(b"a", name="input0"),), "no input is named 'input0'; send image (BYTES [-1]) or pixels"),
        ((image(b"a", datatype="UINT8"),), "input image is BYTES, not 'UINT8'"),
        ((image(b"a", shape=(1, 1, 1)),), "send [pictures] or [pictures, 1]"),
        ((image(b"a", b"b", shape=(1, 2)),), "send [pictures] or [pictures, 1]"),
        ((image(b"a", shape=(2,)),), "is not 2 elements"),
        ((image(b"a", shape=(0,)),), "each 1 or more"),
        ((pixels(1, 2, 2),), "send [pictures, height, width, 3]"),
        ((pixels(1, 3, 2, 2),), "send [pictures, height, width, 3]"),
        ((pixels(1, 1, 2, 4),), "send [pictures, height, width, 3]"),
        ((pixels(1, 1, 2, 3, raw=b"12345"),), "has 6 bytes, but 5 were sent"),
        ((pixels(1, 10**6, 10**6, 3, raw=b"12345"),), "but 5 were sent"),
    ],
)
def test_tensors_that_are_not_the_models_are_malformed(inputs, detail) -> None:
    """Number, name, datatype, shape and size of the inputs must fit, and the refusal says what does."""
    with pytest.raises(MalformedRequest) as refused:
        read(*inputs)
    assert detail in refused.value.detail


def test_no_input_at_all_is_malformed() -> None:
    """A request without inputs is told what to send."""
    engine = ScriptedEngine()
    with pytest.raises(MalformedRequest, match="has 0 inputs; send one: image"):
        RequestReader(engine, Models(engine), LIMITS).read(InferCall("large", "", "", {}, (), ()))


@pytest.mark.parametrize("tensor", [image(b"1", b"2", b"3", b"4", b"5"), pixels(5, 1, 1, 3)], ids=["image", "pixels"])
def test_more_pictures_than_one_request_may_bring_are_refused(tensor) -> None:
    """Their number is bounded as in a multipart request."""
    with pytest.raises(InvalidArgument, match="5 pictures, at most 4"):
        read(tensor)


def test_a_picture_of_too_many_bytes_is_too_large() -> None:
    """The bound is the one of REST, for each picture."""
    assert read(image(b"x" * 100, b"y")).pictures[1] == b"y"
    with pytest.raises(ImageTooLarge, match="at most 100 bytes"):
        read(image(b"x", b"y" * 101))


def test_outputs_are_those_that_were_asked_for() -> None:
    """In the order of the request; the engine computes as many classes as the longest classification."""
    work = read(outputs=[("variant", {}), ("probabilities", {"classification": 7, "binary_data": True}), ("label", {})])
    assert work.outputs == (WantedOutput("variant"), WantedOutput("probabilities", 7), WantedOutput("label"))
    assert work.options.top_k == 7


def test_a_requests_own_classification_is_that_of_its_probabilities() -> None:
    """As a parameter of the request it needs no list of outputs; an output's own goes first."""
    assert read(classification=3).outputs == (WantedOutput("probabilities", 3),)
    assert read(classification="3").outputs == (WantedOutput("probabilities", 3),)
    asked = [("probabilities", {"classification": 5}), ("label", {})]
    assert read(outputs=asked, classification=3).outputs == (WantedOutput("probabilities", 5), WantedOutput("label"))


@pytest.mark.parametrize(
    ("outputs", "error", "detail"),
    [
        ([("scores", {})], MalformedRequest, "no output is named 'scores'; there are probabilities, label, variant"),
        ([("label", {}), ("label", {})], MalformedRequest, "more than once"),
        ([("label", {"classification": 2})], InvalidArgument, "output label has no classification"),
        ([("probabilities", {"classification": 21})], InvalidArgument, "from 1 to 20"),
        ([("probabilities", {"shared_memory_region": "r"})], InvalidArgument, "shared memory"),
    ],
)
def test_outputs_that_there_are_not_are_refused(outputs, error, detail) -> None:
    """Unknown names, doubles, classifications of text and regions of the client's memory."""
    with pytest.raises(error) as refused:
        read(outputs=outputs)
    assert detail in refused.value.detail


@pytest.mark.parametrize(("model", "version"), [("nothing", ""), ("large", "2"), ("efficientnet", "latest")])
def test_an_unknown_model_or_version_is_not_found(model, version) -> None:
    """The refusal names the models, or the version, that there are."""
    engine = ScriptedEngine()
    call = InferCall(model, version, "", {}, (image(b"a"),), ())
    with pytest.raises(UnknownVariant, match=r"efficientnet, large, unknown|say '1'"):
        RequestReader(engine, Models(engine), LIMITS).read(call)
