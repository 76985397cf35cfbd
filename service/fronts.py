"""Every front end of the server, built over one engine and put behind its port.

What is served where is decided here; how long, by `serving.py`. It holds nothing after it has built.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from phiserve.v1.classifier_pb2_grpc import add_ClassifierServicer_to_server
from service.core.engine import Engine
from service.core.generation import Reloaded
from service.core.tally import Tally
from service.frontends import grpc_classifier, oip_grpc
from service.frontends.admin_rest import TokenFile, install_admin
from service.frontends.callers import Callers, parse_networks
from service.frontends.grpc_stream import StreamLimits
from service.frontends.inference.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from service.frontends.oip_request import OipLimits
from service.frontends.oip_rest import install_oip_rest
from service.frontends.oip_service import OipService
from service.frontends.oip_statistics import Statistics
from service.frontends.rest_api import RestApi, RestLimits, create_rest_api
from service.grpc_server import GrpcLimits, GrpcServer, GrpcService
from service.http_server import HttpServer
from service.serving import Fronts, Ports
from service.settings import Settings
from service.telemetry.logs import bind_request_id
from service.telemetry.observers import Observers

VERSION = version("phiserve")


def build_fronts(
    settings: Settings,
    engine: Engine,
    observers: Observers,
    tally: Tally,
    ports: Ports,
    *,
    reload: Callable[[], Awaitable[Reloaded]],
) -> Fronts:
    """The servers of `ports`, none of them started. To be called on the event loop that will serve."""
    api = _rest_api(settings, engine, observers)
    oip, statistics = _oip_service(settings, engine), Statistics(tally, engine.now_ns)
    install_oip_rest(api, oip, statistics, version=VERSION)
    if settings.admin_token_file is not None:
        install_admin(api, TokenFile(settings.admin_token_file), reload)
    http = HttpServer(
        api,
        ports.http,
        ports.tls,
        keepalive_s=settings.http_keepalive_s,
        trusted_proxies=[str(network) for network in _callers(settings).trusted],
        now_ns=engine.now_ns,
        at_once=api.pictures,
    )
    if ports.grpc is None:
        return Fronts(http, None)
    grpc = GrpcServer(
        (_classifier(settings, engine), _oip_grpc(oip, statistics, _callers(settings))),
        ports.grpc,
        GrpcLimits(
            body_bytes_max=settings.body_bytes_max,
            concurrent_rpcs_max=settings.grpc_concurrent_rpcs_max,
            keepalive_s=settings.grpc_keepalive_s,
            connection_age_s=settings.grpc_connection_age_s,
        ),
        tls=ports.tls,
        bind_request_id=bind_request_id,
        observer=observers.exchanges,
    )
    return Fronts(http, grpc)


def _rest_api(settings: Settings, engine: Engine, observers: Observers) -> RestApi:
    return create_rest_api(
        engine,
        limits=RestLimits(
            image_bytes_max=settings.image_bytes_max,
            body_bytes_max=settings.body_bytes_max,
            images_per_request_max=settings.images_per_request_max,
            top_k_max=settings.top_k_max,
        ),
        metrics_page=observers.metrics.metrics_page,
        version=VERSION,
        bind_request_id=bind_request_id,
        observer=observers.exchanges,
    )


def _classifier(settings: Settings, engine: Engine) -> GrpcService:
    classifier = grpc_classifier.Classifier(
        engine,
        image_bytes_max=settings.image_bytes_max,
        top_k_max=settings.top_k_max,
        stream=StreamLimits(settings.stream_frames_max, settings.stream_in_service_max),
        callers=_callers(settings),
    )
    add_to = functools.partial(add_ClassifierServicer_to_server, classifier)
    return GrpcService(grpc_classifier.SERVICE_NAME, add_to, classifier.end_streams)


def _oip_service(settings: Settings, engine: Engine) -> OipService:
    return OipService(
        engine,
        OipLimits(
            image_bytes_max=settings.image_bytes_max,
            body_bytes_max=settings.body_bytes_max,
            images_max=settings.images_per_request_max,
            top_k_max=settings.top_k_max,
        ),
    )


def _callers(settings: Settings) -> Callers:
    return Callers(parse_networks(settings.trusted_proxies))


def _oip_grpc(oip: OipService, statistics: Statistics, callers: Callers) -> GrpcService:
    servicer = oip_grpc.OipServicer(oip, statistics, version=VERSION, callers=callers)
    add_to = functools.partial(add_GRPCInferenceServiceServicer_to_server, servicer)
    return GrpcService(oip_grpc.SERVICE_NAME, add_to, servicer.end_streams)
