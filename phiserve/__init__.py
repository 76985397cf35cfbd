"""What a client of phiserve imports, and the `phiserve` command.

Importing it loads no model, no picture, no HTTP and no gRPC library: those come with the first client that needs them.
"""

from phiserve.async_client import AsyncClient
from phiserve.call_options import OptionArguments
from phiserve.client import Client
from phiserve.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    ImageTooLarge,
    InferenceFailed,
    InternalError,
    InvalidArgument,
    InvalidImage,
    InvalidUrl,
    MalformedRequest,
    NotReady,
    Overloaded,
    PhiserveError,
    ServerError,
    StaleFrame,
    StoreRefused,
    TimedOut,
    TransportError,
    Unauthenticated,
    UnexpectedAnswer,
    UnknownVariant,
    UnsupportedMediaType,
)
from phiserve.results import Classification, Prediction, Timings, Variant
from phiserve.retry import RetryPolicy

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Classification",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "ImageTooLarge",
    "InferenceFailed",
    "InternalError",
    "InvalidArgument",
    "InvalidImage",
    "InvalidUrl",
    "MalformedRequest",
    "NotReady",
    "OptionArguments",
    "Overloaded",
    "PhiserveError",
    "Prediction",
    "RetryPolicy",
    "ServerError",
    "StaleFrame",
    "StoreRefused",
    "TimedOut",
    "Timings",
    "TransportError",
    "Unauthenticated",
    "UnexpectedAnswer",
    "UnknownVariant",
    "UnsupportedMediaType",
    "Variant",
    "__version__",
]
