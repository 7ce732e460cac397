"""Assemble the application: routes, error handlers, start and stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import ASGIApp, ControllerRouterHandler

from serve.engine import tracing
from serve.engine.languages import LANGUAGE_NAMES
from serve.http.context import CUSTOM_ATTRIBUTES, REQUEST_ID, RequestContext
from serve.http.door.body import ArrivingBytes
from serve.http.door.guards import check_key, check_origin, read_keys
from serve.http.door.log_lines import LogLines
from serve.http.errors import EXCEPTION_HANDLERS
from serve.http.live.listen import listen
from serve.http.live.plain import PATH as PLAIN_LIVE_PATH
from serve.http.live.plain import live
from serve.http.live.realtime import realtime
from serve.http.metrics import Metrics, metrics
from serve.http.openai.audio import transcriptions, translations
from serve.http.openai.models import get_openai_model, list_openai_models
from serve.http.openapi.routes import description_routes
from serve.http.page.routes import address_routes
from serve.http.sagemaker.adapters import add_adapter, get_adapter, list_adapters, remove_adapter
from serve.http.sagemaker.bidirectional import PATH as LIVE_PATH
from serve.http.sagemaker.bidirectional import live_stream
from serve.http.sagemaker.invocations import execution_parameters, invocations, ping
from serve.http.sagemaker.models import add_model, get_model, invoke_model, list_models, remove_model
from serve.options import KNOWN_OPTIONS
from serve.service.service import Service
from serve.transcript.formats import FORMATS

OPENAI_ROUTES = {
    "POST /v1/audio/transcriptions": "the same as OpenAI's API words it; likewise /v1/audio/translations",
    "GET /v1/models": "what OpenAI's clients may name as model",
}
SINGLE_ROUTES = {
    "POST /invocations": "a recording in, its transcript out",
    f"WebSocket {PLAIN_LIVE_PATH}": "speech in and committed words out, while it is being spoken",
    f"WebSocket {LIVE_PATH}": "the same as SageMaker's streams word it",
    "WebSocket /v1/realtime, /v1/listen": "the same as OpenAI's and Deepgram's APIs word it",
    **OPENAI_ROUTES,
    "POST, GET, DELETE /adapters": "adapters beside the served one",
}
MODEL_ROUTES = {
    "POST /models/NAME/invoke": "a recording in, its transcript out",
    "POST, GET, DELETE /models": "the models",
    **OPENAI_ROUTES,
}


class Application(Litestar):
    """Litestar without its plugins for pydantic and attrs: importing them takes a tenth of the start."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def create_app(service: Service, on_failure: Callable[[], None]) -> ASGIApp:
    """Return the application; the server's start begins to load the model.

    `on_failure` is called from another thread if the model cannot be loaded.
    """

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        if settings.traces:
            tracing.begin()
        service.start(on_failure)
        try:
            yield
        finally:
            service.close()

    settings = service.settings
    # The page names no model, which every request of a multi-model service must.
    address = address_routes(describe_service, with_page=settings.page and not settings.multi_model)
    counted = Metrics(lambda: service.queue, lambda: service.totals, lambda: service.health)
    lines = LogLines()
    app = Application(
        route_handlers=[
            *(*address, ping, execution_parameters, metrics),
            *_routes(service),
            *description_routes(settings.docs_path),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
        guards=[check_origin, check_key],
        lifespan=[lifespan],
        state=State(
            {
                "service": service,
                "metrics": counted,
                "lines": lines,
                "arriving": ArrivingBytes(service.settings.max_arriving_bytes),
                "api_keys": read_keys(service.settings),
            }
        ),
        openapi_config=None,
        cors_config=_cors(settings.cors_origins),
        logging_config=None,
    )
    return RequestContext(app, counted, lines)


def _cors(origins: str) -> CORSConfig | None:
    """Return the CORS configuration for comma-separated origins; None where there are none."""
    names = [name.strip() for name in origins.split(",") if name.strip()]
    if not names:
        return None
    return CORSConfig(allow_origins=names, expose_headers=[REQUEST_ID, CUSTOM_ATTRIBUTES])


def _routes(service: Service) -> list[ControllerRouterHandler]:
    """Return the routes of a service with one model and its adapters, or of a multi-model service."""
    openai = [transcriptions, translations, list_openai_models, get_openai_model]
    if service.settings.multi_model:
        return [add_model, list_models, get_model, remove_model, invoke_model, *openai]
    live_routes = [live_stream, live, listen, realtime]
    return [invocations, *live_routes, add_adapter, list_adapters, get_adapter, remove_adapter, *openai]


def describe_service(service: Service) -> dict[str, object]:
    """Tell what is served, for programs that ask at the service's address."""
    settings = service.settings
    many, place = settings.multi_model, settings.docs_path
    spoken = LANGUAGE_NAMES if service.adapters is None else service.adapters.pipeline.engine.languages
    return {
        "service": "shrota",
        "endpoints": {
            "GET /ping": "200 when the model answers, 503 before",
            **(MODEL_ROUTES if many else SINGLE_ROUTES),
            "GET /execution-parameters": "how a batch transform should send records",
            "GET /metrics": "figures for Prometheus",
            **({f"GET {place}": "the parameters and responses of every route"} if place else {}),
        },
        "options": sorted(KNOWN_OPTIONS),
        "formats": {answer_format.name: answer_format.media_type for answer_format in FORMATS},
        "languages": sorted(spoken),
        "max_body_bytes": settings.max_body_bytes,
        "docs": place or None,
        "live": None if many else PLAIN_LIVE_PATH,
    }
