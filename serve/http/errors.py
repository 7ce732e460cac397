"""Map errors to statuses and bodies; this is the only place that does."""

from __future__ import annotations

import http
from typing import Any

import structlog
from litestar import MediaType, Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from serve import errors
from serve.transcript.openai import ErrorKind, openai_error
from serve.transcript.wire import encode_error, encode_json

AnyRequest = Request[Any, Any, State]

_log = structlog.get_logger(__name__)


class BodyTimeout(errors.RequestError):
    """The body did not arrive in time."""

    code = "body_timeout"


class ClientGone(Exception):
    """The client closed the connection before its response."""


CLIENT_GONE_STATUS = 499
"""Status for the log only; no response can be sent."""

STATUSES: dict[type[errors.ServiceError], int] = {
    errors.ServiceError: 500,
    errors.RequestError: 400,
    errors.UnsupportedOption: 400,
    errors.UnsupportedMediaType: 415,
    errors.NotAcceptable: 406,
    errors.PayloadTooLarge: 413,
    BodyTimeout: 408,
    errors.UnknownSession: 400,
    errors.TakenOver: 409,
    errors.UnknownAdapter: 404,
    errors.AdapterExists: 409,
    errors.UnknownModel: 404,
    errors.ModelExists: 409,
    errors.UnknownPath: 404,
    errors.BadAdapter: 400,
    errors.NotRemovable: 409,
    errors.NoMemory: 507,
    errors.TooManyAdapters: 507,
    errors.HookRefusal: 400,
    errors.ForeignOrigin: 403,
    errors.WrongKey: 401,
    errors.AudioError: 422,
    errors.UndecodableAudio: 415,
    errors.EmptyAudio: 422,
    errors.AudioTooLong: 413,
    errors.Overloaded: 429,
    errors.TooManySessions: 429,
    errors.NotReady: 503,
    errors.RequestTimeout: 504,
    errors.HookError: 500,
    errors.EngineError: 500,
    errors.EngineLost: 500,
}

OPENAI_PREFIX = "/v1/"
"""Routes below it answer errors as OpenAI does."""

OPENAI_CODES = {errors.UnknownModel.code: "model_not_found"}
OPENAI_OPTIONS = {"adapter": "model", "word_timestamps": "timestamp_granularities"}
"""Our words for what a client of OpenAI's API knows by others."""

UNKNOWN_ERROR_MESSAGE = "the service failed on this request; the log has the reason"


def answer_service_error(request: AnyRequest, error: errors.ServiceError) -> Response[bytes]:
    """Respond to an error that was raised on purpose."""
    status = error.status if isinstance(error, errors.HookRefusal) else STATUSES[type(error)]
    headers = {}
    if isinstance(error, errors.Overloaded | errors.NotReady):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, errors.WrongKey):
        headers["WWW-Authenticate"] = "Bearer"
    _count(request, error.code)
    errors.let_go(error)
    if isinstance(error, errors.UnsupportedOption) and _speaks_openai(request):
        error = errors.UnsupportedOption(OPENAI_OPTIONS.get(error.name, error.name), error.reason)
    param = error.name if isinstance(error, errors.UnsupportedOption) else None
    return _answer(request, status, error.code, str(error), headers, param)


def answer_http_error(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    """Respond to an error of the framework: an unknown route, a wrong method, a malformed request."""
    try:
        phrase = http.HTTPStatus(error.status_code).phrase
    except ValueError:
        phrase = "http error"
    message = error.detail if error.status_code < 500 else UNKNOWN_ERROR_MESSAGE
    return _answer(
        request, error.status_code, phrase.lower().replace(" ", "_"), message, dict(error.headers or {})
    )


def answer_unknown_error(request: AnyRequest, error: Exception) -> Response[bytes]:
    """Respond to an internal error, without details."""
    _log.error("request.failed", error=type(error).__name__, exc_info=error)
    _count(request, "internal_error")
    return _answer(request, 500, "internal_error", UNKNOWN_ERROR_MESSAGE, {})


def answer_client_gone(request: AnyRequest, error: ClientGone) -> Response[bytes]:
    """Record that the client left."""
    errors.let_go(error)
    _count(request, "client_gone")
    return _answer(request, CLIENT_GONE_STATUS, "client_gone", "the client closed the connection", {})


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    errors.ServiceError: answer_service_error,
    ClientGone: answer_client_gone,
    HTTPException: answer_http_error,
    Exception: answer_unknown_error,
}


def _count(request: AnyRequest, code: str) -> None:
    request.app.state.metrics.failed(code)


def _answer(
    request: AnyRequest,
    status: int,
    code: str,
    message: str,
    headers: dict[str, str],
    param: str | None = None,
) -> Response[bytes]:
    body = encode_error(code, message)
    if _speaks_openai(request):
        code = OPENAI_CODES.get(code, code)
        body = encode_json(openai_error(code, message, _openai_kind(status), param)) + b"\n"
    return Response(body, status_code=status, media_type=MediaType.JSON, headers=headers)


def _openai_kind(status: int) -> ErrorKind:
    if status == STATUSES[errors.Overloaded]:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _speaks_openai(request: AnyRequest) -> bool:
    return request.scope["path"].startswith(OPENAI_PREFIX)
