"""A client that knows no service: it learns all of them, and their messages, from the server's reflection."""

from __future__ import annotations

import grpc
from checks import VARIANT, Checks
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "inference.GRPCInferenceService"


def call(channel: grpc.Channel, pool: DescriptorPool, method: str, **members):
    """Call a method of the protocol, with messages made from what the server said of them."""
    described = pool.FindServiceByName(SERVICE).methods_by_name[method]
    asked, answered = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
    invoke = channel.unary_unary(
        f"/{SERVICE}/{method}", request_serializer=asked.SerializeToString, response_deserializer=answered.FromString
    )
    return invoke(asked(**members), timeout=30)


def main() -> None:
    checks = Checks("grpcio-reflection")
    with grpc.insecure_channel(checks.grpc) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        with checks.check("list of services"):
            services = set(database.get_services())
            assert {SERVICE, "phiserve.v1.Classifier", "grpc.health.v1.Health"} <= services, services
        with checks.check("health"):
            health = pool.FindServiceByName("grpc.health.v1.Health").methods_by_name["Check"]
            asked, answered = GetMessageClass(health.input_type), GetMessageClass(health.output_type)
            ask = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=asked.SerializeToString,
                response_deserializer=answered.FromString,
            )
            assert ask(asked(service=SERVICE), timeout=30).status == 1, "not SERVING"
        with checks.check("metadata"):
            assert call(channel, pool, "ServerMetadata").name == "phiserve"
        with checks.check("classification"):
            tensor = {
                "name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [checks.picture]}
            }  # fmt: skip
            best = {"name": "probabilities", "parameters": {"classification": {"int64_param": 1}}}
            answer = call(channel, pool, "ModelInfer", model_name=VARIANT, inputs=[tensor], outputs=[best])
            # A BYTES element is a four-byte length and the text.
            checks.same_classification([answer.raw_output_contents[0][4:]])
    checks.finish()


if __name__ == "__main__":
    main()
