"""gRPC beside HTTP in the real process: the same answers, both ports secured, and one drain that loses nothing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from phiserve.v1 import classifier_pb2 as pb
from phiserve.v1 import classifier_pb2_grpc as pb_grpc
from tests.end_to_end.phiserve_process import ServerProcess, serving
from tests.fakes.pki import make_pki

WAIT_S = 30


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield channel


@pytest.fixture
def stub(channel) -> pb_grpc.ClassifierStub:
    return pb_grpc.ClassifierStub(channel)


def test_both_wires_give_the_same_answer(stub, client, espresso) -> None:
    """The same variant, classes and probabilities for the same picture."""
    answer = stub.Classify(pb.ClassifyRequest(image=espresso, variant="lite0", budget_ms=20_000), timeout=WAIT_S)
    asked = {"variant": "lite0", "budget_ms": 20_000}
    expected = client.post("/classify", params=asked, content=espresso).json()
    assert [(row.index, row.wnid, row.label) for row in answer.predictions] == [
        (row["index"], row["wnid"], row["label"]) for row in expected["predictions"]
    ]
    assert [row.probability for row in answer.predictions] == pytest.approx(
        [row["probability"] for row in expected["predictions"]], abs=1e-6
    )
    assert (answer.variant.name, answer.variant.top1, answer.variant.trained) == ("lite0", 75.1, True)
    assert answer.budget_met
    assert 0 < answer.timings.inference_ms < answer.timings.total_ms


def test_a_hopeless_budget_is_refused_with_one_that_works(stub, espresso) -> None:
    """The code that says so, and in its details a budget that would have worked."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(pb.ClassifyRequest(image=espresso, budget_ms=0.5), timeout=WAIT_S)
    assert caught.value.code().name == "DEADLINE_EXCEEDED"
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(caught.value).details[0].Unpack(info)
    assert info.reason == "DEADLINE_EXCEEDED"
    assert float(info.metadata["smallest_feasible_budget_ms"]) > 0.5


def test_a_stream_of_frames_is_answered_in_order(stub, espresso) -> None:
    """Every frame once, in order, with an answer or a reason; some with an answer, on any machine."""
    requests = (
        pb.ClassifyStreamRequest(frame_id=number, request=pb.ClassifyRequest(image=espresso, budget_ms=10_000))
        for number in range(40)
    )
    answers = list(stub.ClassifyStream(requests, timeout=WAIT_S))
    assert [answer.frame_id for answer in answers] == list(range(40))
    assert {answer.answer.predictions[0].label for answer in answers if answer.HasField("answer")} == {"espresso"}


def test_sigterm_under_load_loses_no_call(profiled, lean_flags, espresso) -> None:
    """Every call ends with an answer or with UNAVAILABLE, which a client sends elsewhere; then the process ends."""
    outcomes: Counter[str] = Counter()
    answered = threading.Semaphore(0)

    def call(address: str) -> None:
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = pb_grpc.ClassifierStub(channel)
            while outcomes["UNAVAILABLE"] < 4:
                try:
                    stub.Classify(pb.ClassifyRequest(image=espresso, budget_ms=20_000), timeout=WAIT_S)
                except grpc.RpcError as error:
                    outcomes[error.code().name] += 1
                else:
                    outcomes["OK"] += 1
                    answered.release()

    with serving(*lean_flags, "--drain-notice-s", "0.3") as server:
        with grpc.insecure_channel(server.grpc_address) as channel:
            health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert next(health).status == health_pb2.HealthCheckResponse.SERVING
            callers = [threading.Thread(target=call, args=(server.grpc_address,)) for _ in range(4)]
            for caller in callers:
                caller.start()
            for _ in range(8):
                assert answered.acquire(timeout=WAIT_S), "the load is not answered"
            server.stop()
            assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
            for caller in callers:
                caller.join(WAIT_S)
        assert server.wait() == 0
    assert set(outcomes) == {"OK", "UNAVAILABLE"}, outcomes
    messages = [line["message"] for line in server.log()]
    assert "drained" in messages
    assert not [line for line in server.log() if line["level"] in {"warning", "error"}]


def test_tls_secures_both_ports(profiled, lean_flags, espresso, tmp_path) -> None:
    """With a client authority neither port serves a caller without a certificate, and both serve one that has it."""
    pki = make_pki(tmp_path)
    files = ("--tls-cert", pki.cert, "--tls-key", pki.key, "--tls-client-ca", pki.ca)
    with serving(*lean_flags, *files) as server:
        assert server.url.startswith("https://")
        with (
            httpx.Client(base_url=server.url, verify=pki.trusting(), timeout=WAIT_S) as anybody,
            pytest.raises(httpx.TransportError),
        ):
            anybody.get("/livez")
        with httpx.Client(base_url=server.url, verify=pki.trusting(shows=True), timeout=WAIT_S) as known:
            assert known.post("/classify", content=espresso).status_code == 200
        own = (pki.client_key.read_bytes(), pki.client_cert.read_bytes())
        for shown, code in (((None, None), "UNAVAILABLE"), (own, "OK")):
            credentials = grpc.ssl_channel_credentials(pki.ca.read_bytes(), *shown)
            with grpc.secure_channel(server.grpc_address, credentials) as channel:
                call = pb_grpc.ClassifierStub(channel).Classify.future(pb.ClassifyRequest(image=espresso))
                assert call.code().name == code
