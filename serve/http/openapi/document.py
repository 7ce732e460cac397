"""Build the OpenAPI document from the registered routes and the wire types.

    document = describe(app_routes, service)

Possible values depend on what is served: languages are the model's, adapters those that are registered.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from litestar.handlers import HTTPRouteHandler
from litestar.routes import BaseRoute, HTTPRoute

from serve.config.reader import keys_of
from serve.engine.languages import LANGUAGE_NAMES
from serve.errors import WrongKey
from serve.http.door.body import AUDIO_FIELD, FILE_FIELD, LIST_MARK
from serve.http.door.guards import OPEN_PATHS
from serve.http.errors import OPENAI_CODES, OPENAI_PREFIX, STATUSES, UNKNOWN_ERROR_MESSAGE
from serve.http.openai.fields import CHUNKING, LISTS, MODEL, REFUSED, OwnFields
from serve.http.openai.models import SERVED, adapters_of_models
from serve.http.openapi.operations import (
    ANSWER_HEADERS,
    BASE64,
    BYTES,
    OPERATIONS,
    TEXT,
    Error,
    Operation,
    Schema,
)
from serve.http.sagemaker.adapters import ADAPTER_ALIAS
from serve.http.sagemaker.sessions import SESSION_ID
from serve.options import DETECT, FORMAT_OPTIONS, NO_ADAPTER, TranscriptionOptions, WireOptions
from serve.service.registered import NAME
from serve.service.service import Service
from serve.transcript.formats import FORMATS
from serve.transcript.openai import OpenAIErrorAnswer, TextBody
from serve.transcript.wire import ErrorAnswer, TranscriptBody, VerboseBody

OPENAPI = "3.1.0"
REFERENCE = "#/components/schemas/{name}"

RETRIED = (429, 503)
"""Statuses whose responses have a `Retry-After` header."""

_NAME: Schema = {"type": "string", "pattern": f"^{NAME.pattern}$"}

LONG_ADDRESS: Schema = {
    "description": "path and query are longer than 16 KiB; answered before any route",
    "content": {"text/plain": {"schema": TEXT}},
}

PATTERNS: Mapping[str, Mapping[str, Schema]] = {
    "NewAdapter": {"name": {**_NAME, "not": {"const": NO_ADAPTER}}},
    "NewModel": {"model_name": _NAME},
}
"""Body -> fields with stricter schemas than their types."""

TRACK_PATTERN = r"^(0*[1-9][0-9]?|.*[^0-9\s].*)$"
"""A number from 1 to 99, or a language."""

_FORMAT = "The response format; it overrides `Accept`."

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")

Document = dict[str, Any]


def describe(routes: Iterable[BaseRoute], service: Service) -> Document:
    """Return the OpenAPI document of an application's routes."""
    options = _option_schemas(service)
    paths: dict[str, dict[str, Any]] = {}
    for method, path, handler in _handlers(routes):
        if (operation := OPERATIONS.get((method, path))) is not None:
            paths.setdefault(path, {})[method.lower()] = _operation(
                path, handler, operation, options, service
            )
    return {
        "openapi": OPENAPI,
        "info": {
            "title": "shrota",
            "version": _version(),
            "description": "Recordings in, transcripts out. Speech that is still being spoken goes through"
            " the WebSockets of live speech, for which OpenAPI has no words.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": _components(options, service)},
    }


def undescribed(routes: Iterable[BaseRoute]) -> list[str]:
    """Return routes that have no operation."""
    return [f"{method} {path}" for method, path, _ in _handlers(routes) if (method, path) not in OPERATIONS]


def _handlers(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    """Yield method, path and handler of each documented route."""
    for route in routes:
        if not isinstance(route, HTTPRoute):
            continue
        path = _PARAMETER.sub(r"{\1}", route.path_format)
        for method, (handler, _) in route.route_handler_map.items():
            if handler.include_in_schema is not False and method in ("GET", "POST", "DELETE"):
                yield method, path, handler


def _operation(
    path: str,
    handler: HTTPRouteHandler,
    operation: Operation,
    options: Mapping[str, Schema],
    service: Service,
) -> Document:
    query = {**operation.query, **(options if operation.takes_options else {})}
    headers = {name: {"schema": TEXT, "description": about} for name, about in ANSWER_HEADERS.items()}
    parameters = _in_text(query)
    found: Document = {
        "operationId": handler.handler_name,
        "summary": str(handler.summary),
        "description": inspect.getdoc(handler.fn) or "",
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": TEXT} for name in _names(path)),
            *({"name": name, "in": "query", "schema": schema} for name, schema in parameters.items()),
            *(
                {
                    "name": name,
                    "in": "header",
                    "schema": _in_header(name, operation),
                    "description": about,
                }
                for name, about in operation.headers.items()
                if name != SESSION_ID or service.settings.stateful_sessions
            ),
        ],
        "responses": {
            "200": {"description": "it went well", "headers": headers, **_content(operation.answers)},
            **_problems(
                [*operation.errors, *([WrongKey] if _needs_key(path, service) else [])],
                is_openai=path.startswith(OPENAI_PREFIX),
            ),
            **({"414": LONG_ADDRESS} if parameters or _names(path) else {}),
        },
    }
    if operation.bodies:
        found["requestBody"] = {"required": True, **_content(operation.bodies, operation.examples)}
    return found


def _needs_key(path: str, service: Service) -> bool:
    return service.settings.api_keys is not None and path not in OPEN_PATHS


def _in_header(name: str, operation: Operation) -> Schema:
    """Return the schema of a request header: names that an option or another header overrides may be any."""
    return _NAME if name == ADAPTER_ALIAS and not operation.takes_options else TEXT


def _names(path: str) -> list[str]:
    return _PARAMETER.findall(path)


def _content(
    bodies: Mapping[str, Schema | type[msgspec.Struct]], examples: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    if not bodies:
        return {}
    shown = {name: {"example": example} for name, example in (examples or {}).items()}
    content = {name: {"schema": _schema(body), **shown.get(name, {})} for name, body in bodies.items()}
    return {"content": content}


def _schema(body: Schema | type[msgspec.Struct]) -> Schema:
    return {"$ref": REFERENCE.format(name=body.__name__)} if isinstance(body, type) else body


def _problems(errors: Sequence[Error], *, is_openai: bool) -> dict[str, Document]:
    """Return the error responses: one for each status, described by its error codes."""
    answer = OpenAIErrorAnswer if is_openai else ErrorAnswer
    content = _content({"application/json": answer})
    codes: dict[int, list[str]] = {}
    for error in errors:
        code = OPENAI_CODES.get(error.code, error.code) if is_openai else error.code
        codes.setdefault(STATUSES[error], []).append(code)
    found = {
        str(status): {"description": ", ".join(dict.fromkeys(codes[status])), **content}
        for status in sorted(codes)
    }
    for status in RETRIED:
        if str(status) in found:
            found[str(status)]["headers"] = {
                "Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}
            }
    found.setdefault("500", {"description": f"internal_error: {UNKNOWN_ERROR_MESSAGE}", **content})
    return found


def _components(options: Mapping[str, Schema], service: Service) -> Document:
    types = {ErrorAnswer, OpenAIErrorAnswer, TranscriptBody, VerboseBody, TextBody}
    for operation in OPERATIONS.values():
        types |= {
            each
            for each in (*operation.answers.values(), *operation.bodies.values())
            if isinstance(each, type)
        }
    ordered = sorted(types, key=lambda each: each.__name__)
    _, components = msgspec.json.schema_components(ordered, ref_template=REFERENCE)
    for name, fields in PATTERNS.items():
        components[name]["properties"] |= fields
    components["NewAdapter"]["properties"]["language"] = {"enum": [*_languages(service), None]}
    components["RecordingObject"] = _object({AUDIO_FIELD: BASE64, **options}, required=[AUDIO_FIELD])
    in_form = _in_text(options)
    components["RecordingForm"] = _object({FILE_FIELD: BYTES, **in_form}, required=[FILE_FIELD])
    components["OpenAIForm"] = _object(
        {FILE_FIELD: BYTES, **_openai_fields(in_form, service)},
        required=[FILE_FIELD, *([MODEL] if service.settings.multi_model else [])],
    )
    return dict(sorted(components.items()))


def _object(properties: Mapping[str, Schema], required: Sequence[str]) -> Document:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _option_schemas(service: Service) -> dict[str, Schema]:
    """Return the schemas of a transcription's options."""
    _, components = msgspec.json.schema_components((WireOptions,), ref_template=REFERENCE)
    found = {name: _plain(schema) for name, schema in components["WireOptions"]["properties"].items()}
    found["language"] = {"enum": [*_languages(service), DETECT]}
    if service.adapters is not None:
        names = [each.name for each in service.adapters.all()]
        found["adapter"] = {"enum": [*names, NO_ADAPTER]}
    for name in FORMAT_OPTIONS:
        found[name] = {"enum": [each.name for each in FORMATS]}
    about = {key.name: key.about for key in keys_of(TranscriptionOptions).values()}
    return {name: {**schema, "description": about.get(name, _FORMAT)} for name, schema in found.items()}


def _in_text(options: Mapping[str, Schema]) -> dict[str, Schema]:
    """Return the schemas of options in a query or form, where lists are comma-separated text."""
    found = dict(options)
    for name, schema in options.items():
        if "anyOf" in schema:
            pattern = {"pattern": TRACK_PATTERN} if name == "track" else {}
            found[name] = {"type": "string", **pattern, "description": schema.get("description", "")}
    return found


def _languages(service: Service) -> list[str]:
    if service.adapters is None:
        return sorted(LANGUAGE_NAMES)
    return sorted(service.adapters.pipeline.engine.languages)


def _plain(schema: Schema) -> Schema:
    """Return the schema of an option without null, which means that the option is absent."""
    if "anyOf" not in schema:
        return schema
    kinds = [each for each in schema["anyOf"] if each != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**kinds[0], **rest} if len(kinds) == 1 else {"anyOf": kinds, **rest}


def _openai_fields(options: Mapping[str, Schema], service: Service) -> dict[str, Schema]:
    """Return the fields of OpenAI's forms, except those that are always refused."""
    _, components = msgspec.json.schema_components((OwnFields,), ref_template=REFERENCE)
    own: Mapping[str, Schema] = components["OwnFields"]["properties"]
    ours = [name for name in options if name not in (*REFUSED, *FORMAT_OPTIONS)]
    return {
        MODEL: _models(service),
        **{f"{name}{LIST_MARK}" if name in LISTS else name: schema for name, schema in own.items()},
        CHUNKING: {"enum": ["auto", "server_vad"]},
        **{name: options[name] for name in ours},
    }


def _models(service: Service) -> Schema:
    """Return the schema of a model's name; where models come and go, it may be any name."""
    if service.settings.multi_model:
        return _NAME
    is_ready = service.state == "ready" and service.adapters
    return {"enum": [*adapters_of_models(service)] if is_ready else [SERVED], "default": SERVED}


def _version() -> str:
    try:
        return version("shrota")
    except PackageNotFoundError:  # a checkout that was not installed
        return "0"
