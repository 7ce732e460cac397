"""The adapters beside the served one: POST, GET and DELETE /adapters, as SageMaker's platform calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from litestar import Response, delete, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.params import FromPath

from serve.errors import NotReady, RequestError
from serve.http.body import BOM, BodyLimits, read_body
from serve.http.errors import AnyRequest
from serve.service.service import Service
from serve.transcript.wire import encode_json

if TYPE_CHECKING:  # its imports take seconds, which the loading thread spends
    from serve.service.adapters import Adapter, Adapters

T = TypeVar("T")

ADAPTER_ID = "X-Amzn-SageMaker-Adapter-Identifier"
ADAPTER_ALIAS = "X-Amzn-SageMaker-Adapter-Alias"

MAX_ADMIN_BODY_BYTES = 64 * 1024


class _NewAdapter(msgspec.Struct, kw_only=True):
    name: str
    src: str
    preload: bool = True
    pin: bool = False


class _Adapters(msgspec.Struct, kw_only=True, frozen=True):
    adapters: list[Adapter]


class _Removed(msgspec.Struct, kw_only=True, frozen=True):
    name: str


def named_adapter(request: ASGIConnection[Any, Any, Any, State]) -> str | None:
    """Return the adapter that the headers of a request name: by its identifier, or else by its alias."""
    return request.headers.get(ADAPTER_ID) or request.headers.get(ADAPTER_ALIAS) or None


@post("/adapters", summary="Load an adapter", status_code=200, request_max_body_size=None)
async def add_adapter(request: AnyRequest, state: State) -> Response[bytes]:
    """Register the adapter of a directory under a name, and load it unless `preload` is false."""
    service: Service = state.service
    adapters = _adapters(service)
    new = await read_json(request, service, _NewAdapter)
    added = await service.in_loader(
        adapters.add,
        new.name,
        new.src,
        preload=new.preload,
        pin=new.pin,
        alias=request.headers.get(ADAPTER_ALIAS) or None,
    )
    return json_response(added)


@get("/adapters", summary="The adapters", sync_to_thread=False)
def list_adapters(state: State) -> Response[bytes]:
    """Answer what is known of every adapter."""
    return json_response(_Adapters(adapters=_adapters(state.service).all()))


@get("/adapters/{name:str}", summary="An adapter", sync_to_thread=False)
def get_adapter(name: FromPath[str], state: State) -> Response[bytes]:
    """Answer what is known of one."""
    return json_response(_adapters(state.service).get(name))


@delete("/adapters/{name:str}", summary="Remove an adapter", status_code=200)
async def remove_adapter(name: FromPath[str], state: State) -> Response[bytes]:
    """Take an adapter away from requests to come; those that hold it are served to their end."""
    service: Service = state.service
    await service.in_loader(_adapters(service).remove, name)
    return json_response(_Removed(name=name))


async def read_json(request: AnyRequest, service: Service, kind: type[T]) -> T:
    """Read a small JSON body.

    Raises:
        RequestError: It is none of that kind.
    """
    settings = service.settings
    limits = BodyLimits(
        max_body_bytes=MAX_ADMIN_BODY_BYTES,
        timeout_s=settings.body_timeout_s,
        idle_timeout_s=settings.body_idle_timeout_s,
    )
    body = await read_body(request.receive, request.headers, limits)
    try:
        return msgspec.json.decode(body.removeprefix(BOM), type=kind)
    except msgspec.DecodeError as error:
        raise RequestError(f"the body is not the JSON object that is expected: {error}") from error


def json_response(content: msgspec.Struct) -> Response[bytes]:
    """Answer an object as JSON."""
    return Response(encode_json(content) + b"\n", headers={"Content-Type": "application/json"})


def _adapters(service: Service) -> Adapters:
    service.check_ready()
    if service.adapters is None:
        raise NotReady("the model is loading")
    return service.adapters
