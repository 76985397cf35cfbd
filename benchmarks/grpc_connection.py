"""phiserve's one call over gRPC as bytes, the least that a client can do; `http_connection.py` is that over HTTP."""

from __future__ import annotations

import grpc

Classify = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
"""From a `ClassifyRequest`'s bytes to those of a `ClassifyResponse`."""


def classify_method(channel: grpc.aio.Channel) -> Classify:
    """`Classifier.Classify` on `channel`, without stubs."""
    return channel.unary_unary("/phiserve.v1.Classifier/Classify")
