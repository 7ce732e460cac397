"""Routes to manage adapters, as SageMaker's platform calls them: POST, GET and DELETE /adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
from litestar import Response, delete, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.params import FromPath

from serve.engine.languages import language_code
from serve.errors import NotReady, RequestError
from serve.http.door.json_bodies import json_response, read_json
from serve.http.errors import AnyRequest
from serve.model.artifact import Told
from serve.service.registered import Adapter
from serve.service.service import Service

if TYPE_CHECKING:  # these imports take seconds, so the loading thread does them
    from serve.service.adapters import Adapters

ADAPTER_ID = "X-Amzn-SageMaker-Adapter-Identifier"
ADAPTER_ALIAS = "X-Amzn-SageMaker-Adapter-Alias"


class NewAdapter(msgspec.Struct, kw_only=True):
    name: str
    src: str
    preload: bool = True
    pin: bool = False
    language: str | None = None
    """Language of a model without a manifest."""
    encoder_context: Literal["fixed", "dynamic"] = "fixed"


class AllAdapters(msgspec.Struct, kw_only=True, frozen=True):
    adapters: list[Adapter]


class RemovedAdapter(msgspec.Struct, kw_only=True, frozen=True):
    name: str


def named_adapter(request: ASGIConnection[Any, Any, Any, State]) -> str | None:
    """Return the adapter that a request's headers name, by identifier or by alias."""
    return request.headers.get(ADAPTER_ID) or request.headers.get(ADAPTER_ALIAS) or None


@post("/adapters", summary="Load an adapter", status_code=200, request_max_body_size=None)
async def add_adapter(request: AnyRequest, state: State) -> Response[bytes]:
    """Register an adapter under a name, and load it unless `preload` is false."""
    service: Service = state.service
    adapters = _adapters(service)
    new = await read_json(request, service, NewAdapter)
    if new.language is not None and language_code(new.language) != new.language:
        raise RequestError(f"language: '{new.language[:40]}' is not a language code of Whisper, such as mr")
    told = Told(language=new.language, encoder_context=new.encoder_context)
    added = await service.in_loader(
        adapters.add,
        new.name,
        new.src,
        preload=new.preload,
        pin=new.pin,
        alias=request.headers.get(ADAPTER_ALIAS) or None,
        told=told,
    )
    return json_response(added)


@get("/adapters", summary="The adapters", sync_to_thread=False)
def list_adapters(state: State) -> Response[bytes]:
    return json_response(AllAdapters(adapters=_adapters(state.service).all()))


@get("/adapters/{name:str}", summary="An adapter", sync_to_thread=False)
def get_adapter(name: FromPath[str], state: State) -> Response[bytes]:
    return json_response(_adapters(state.service).get(name))


@delete("/adapters/{name:str}", summary="Remove an adapter", status_code=200)
async def remove_adapter(name: FromPath[str], state: State) -> Response[bytes]:
    """Unregister an adapter; requests that hold it are served to their end."""
    service: Service = state.service
    await service.in_loader(_adapters(service).remove, name)
    return json_response(RemovedAdapter(name=name))


def _adapters(service: Service) -> Adapters:
    service.check_ready()
    if service.adapters is None:
        raise NotReady("the model is loading")
    return service.adapters
