"""What spans say: names and attributes by OpenTelemetry's conventions for HTTP and RPC servers, ours as `phiserve.…`.

Plain data, without OpenTelemetry. Nothing that a caller can make up becomes part of a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from service.core.request import Classification, Plan, QueuedRequest
from service.errors import DeadlineExceeded
from service.exchange import Ending, Exchange

Value: TypeAlias = str | bool | int | float
Attributes: TypeAlias = Mapping[str, Value]

NS_PER_MS = 1_000_000

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})


def span_name(exchange: Exchange, route: str = "") -> str:
    """`POST /classify`, the method alone where no route is known, or gRPC's full method."""
    if exchange.method is None:
        return exchange.path.lstrip("/")
    method = exchange.method if exchange.method in _METHODS else "HTTP"
    return f"{method} {route}" if route else method


def of_exchange(exchange: Exchange) -> Attributes:
    """What the head says; what is empty is left out."""
    attributes: dict[str, Value | None] = {
        "phiserve.request_id": exchange.request_id,
        "client.address": exchange.client,
        "server.address": exchange.server_address,
        "server.port": exchange.server_port,
        "user_agent.original": exchange.header("user-agent"),
    }
    if exchange.method is None:
        attributes |= {"rpc.system.name": "grpc", "rpc.method": span_name(exchange)}
    else:
        attributes |= {
            "http.request.method": exchange.method if exchange.method in _METHODS else "_OTHER",
            "http.request.method_original": "" if exchange.method in _METHODS else exchange.method,
            "url.path": exchange.path,
            "url.query": exchange.query,
            "url.scheme": exchange.scheme,
            "network.protocol.version": exchange.protocol_version,
        }
    return {name: value for name, value in attributes.items() if value}


def of_ending(exchange: Exchange, ending: Ending) -> Attributes:
    """Status and route; an answer that was never given has no status."""
    attributes: dict[str, Value] = {"http.route": ending.route} if ending.route else {}
    if ending.status is None:
        return attributes | {"error.type": "unanswered"}
    if exchange.method is None:
        attributes["rpc.response.status_code"] = ending.status
    else:
        attributes["http.response.status_code"] = int(ending.status)
    return attributes | {"error.type": ending.status} if ending.is_fault else attributes


def of_answer(classification: Classification) -> Attributes:
    """What the picture was answered with."""
    attributes: dict[str, Value] = {
        "phiserve.outcome": "answered",
        "phiserve.variant": classification.variant.name,
        "phiserve.budget_ms": classification.budget_ns / NS_PER_MS,
        "phiserve.budget_met": classification.budget_met,
        "phiserve.batch_size": classification.batch_size,
    }
    if classification.degraded_from is not None:
        attributes["phiserve.degraded_from"] = classification.degraded_from
    return attributes


def of_failure(outcome: str, request: QueuedRequest | None, error: Exception | None) -> Attributes:
    """Why the picture was not answered. `outcome`: one of `metrics.OUTCOMES`; `request` if it was decoded."""
    attributes: dict[str, Value] = {"phiserve.outcome": outcome}
    if request is not None:
        attributes["phiserve.budget_ms"] = (request.deadline_ns - request.received_ns) / NS_PER_MS
    if isinstance(error, DeadlineExceeded) and error.smallest_feasible_budget_ns is not None:
        attributes["phiserve.smallest_feasible_budget_ms"] = error.smallest_feasible_budget_ns / NS_PER_MS
    return attributes


def of_plan(plan: Plan) -> Attributes:
    """What was decided."""
    return {
        "phiserve.variant": plan.variant,
        "phiserve.threads": plan.threads,
        "phiserve.batch_size": len(plan.request_ids),
        "phiserve.planned_ms": plan.latency_ns / NS_PER_MS,
    }
