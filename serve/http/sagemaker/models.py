"""Routes of a multi-model service, as SageMaker's platform calls them: /models and below."""

from __future__ import annotations

import bisect
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from litestar import Response, delete, get, post
from litestar.datastructures import State
from litestar.params import FromPath, FromQuery
from litestar.response import Stream

from serve.errors import NotReady
from serve.http.door.json_bodies import json_response, read_json
from serve.http.errors import AnyRequest
from serve.http.sagemaker.invocations import asked_outside_body
from serve.http.transcription import transcribe_body
from serve.service.service import Service

if TYPE_CHECKING:  # these imports take seconds, so the loading thread does them
    from serve.service.models import Model, Models

PAGE_MODELS = 100


class NewModel(msgspec.Struct, kw_only=True):
    model_name: str
    url: str


class LoadedModel(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    model_name: str
    model_url: str


class ModelPage(msgspec.Struct, kw_only=True, frozen=True, rename="camel", omit_defaults=True):
    models: list[LoadedModel]
    next_page_token: str | None = None


@post("/models", summary="Load a model", status_code=200, request_max_body_size=None)
async def add_model(request: AnyRequest, state: State) -> Response[bytes]:
    service: Service = state.service
    models = _models(service)
    new = await read_json(request, service, NewModel)
    return json_response(_wire(await service.in_loader(models.add, new.model_name, new.url)))


@get("/models", summary="The models", sync_to_thread=False)
def list_models(state: State, next_page_token: FromQuery[str | None] = None) -> Response[bytes]:
    """Return a page of models; its token requests the next one."""
    models = _models(state.service).all()
    start = bisect.bisect_right([model.name for model in models], next_page_token or "")
    page = models[start : start + PAGE_MODELS]
    token = page[-1].name if start + PAGE_MODELS < len(models) else None
    return json_response(ModelPage(models=[_wire(model) for model in page], next_page_token=token))


@get("/models/{name:str}", summary="A model", sync_to_thread=False)
def get_model(name: FromPath[str], state: State) -> Response[bytes]:
    """Return the address that a model was loaded from."""
    return json_response(_wire(_models(state.service).get(name)))


@delete("/models/{name:str}", summary="Unload a model", status_code=200)
async def remove_model(name: FromPath[str], state: State) -> Response[bytes]:
    """Unregister a model; requests that hold it are served to their end."""
    service: Service = state.service
    models = _models(service)
    model = models.get(name)
    await service.in_loader(models.remove, name)
    return json_response(_wire(model))


@post(
    "/models/{name:str}/invoke",
    summary="Transcribe a recording",
    status_code=200,
    request_max_body_size=None,
)
async def invoke_model(request: AnyRequest, name: FromPath[str], state: State) -> Response[bytes] | Stream:
    """Transcribe the recording in the body, like POST /invocations."""
    return await transcribe_body(request, state, partial(asked_outside_body, model=name))


def _models(service: Service) -> Models:
    service.check_ready()
    if service.models is None:
        raise NotReady("the service is starting")
    return service.models


def _wire(model: Model) -> LoadedModel:
    return LoadedModel(model_name=model.name, model_url=model.url)
