"""GET /v1/models: the names that a request may give as its model.

`whisper-1` is the served model. Every adapter is a model of its own, and so is the base model alone. In a
multi-model service the names are those of its models, and none is served without being named.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import Response, get
from litestar.datastructures import State
from litestar.params import FromPath

from serve.errors import NotReady, UnknownModel
from serve.http.door.json_bodies import json_response
from serve.model.base_model import name_of_base
from serve.options import NO_ADAPTER
from serve.service.service import Service

SERVED = "whisper-1"
"""OpenAI's name of Whisper, here the served model, unless an adapter has that name."""

OWNER = "shrota"


class ModelBody(msgspec.Struct, kw_only=True, frozen=True):
    """A model, as OpenAI describes one."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Unix time of the start of this service."""
    owned_by: str = OWNER


class ModelsBody(msgspec.Struct, kw_only=True, frozen=True):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelBody]


@get("/v1/models", summary="The models", sync_to_thread=False)
def list_openai_models(state: State) -> Response[bytes]:
    """Return all models."""
    service: Service = state.service
    return json_response(ModelsBody(data=[_body(service, name) for name in adapters_of_models(service)]))


@get("/v1/models/{model:path}", summary="A model", sync_to_thread=False)
def get_openai_model(model: FromPath[str], state: State) -> Response[bytes]:
    """Return one model; its name may have slashes, as in `openai/whisper-base`."""
    service: Service = state.service
    name = model.strip("/")
    adapter_of(service, name)
    return json_response(_body(service, name))


def adapter_of(service: Service, model: str) -> str | None:
    """Return the adapter that a model's name stands for; None for the served model.

    Args:
        model: Name in the request; empty for the served model.

    Raises:
        UnknownModel: None of that name is served.
    """
    known = adapters_of_models(service)
    if (name := model.strip() or SERVED) not in known:
        raise UnknownModel(name)
    return known[name]


def adapters_of_models(service: Service) -> dict[str, str | None]:
    """Return the names of all models, each with the adapter that it stands for."""
    service.check_ready()
    if service.models is not None:
        return {model.name: None for model in service.models.all()}
    if service.adapters is None:
        raise NotReady("the model is loading")
    base_dir = service.adapters.pipeline.base_dir
    base = {} if base_dir is None else {name_of_base(base_dir): NO_ADAPTER}
    adapters = service.adapters.all()
    named = {name: name for each in adapters for name in (each.name, each.alias) if name is not None}
    return {SERVED: None, **base, **named}


def _body(service: Service, name: str) -> ModelBody:
    return ModelBody(id=name, created=int(service.started))
