"""The routes of the address itself: the page for browsers, JSON for programs, and the files of the page."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from litestar import Response, get
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from serve.http.accept import media_ranges, quality_of
from serve.http.errors import AnyRequest
from serve.http.page.built import HASHED, File, hashed_files, index
from serve.service.service import Service

HTML, JSON = "text/html", "application/json"

Describe = Callable[[Service], dict[str, object]]
"""Tells what a service offers."""


def address_routes(describe: Describe, *, with_page: bool) -> list[ControllerRouterHandler]:
    """Return the routes of `/`, and where there is a page those of its files."""

    @get("/", summary="What is served here", sync_to_thread=False)
    def address(request: AnyRequest, state: State) -> Response[bytes]:
        """Describe the service to programs; browsers, which ask for HTML, get a page to transcribe with."""
        if with_page and _prefers_html(request.headers.get("accept", "")):
            return _answer(index())
        body = msgspec.json.encode(describe(state.service))
        return Response(body, headers={"Content-Type": JSON, "Cache-Control": "no-cache", "Vary": "Accept"})

    @get(f"/{HASHED}/{{name:str}}", summary="A file", include_in_schema=False, sync_to_thread=False)
    def asset(name: FromPath[str]) -> Response[bytes]:
        """Return a script, style, font or drawing of the page."""
        if (file := hashed_files().get(name)) is None:
            raise NotFoundException
        return _answer(file)

    return [address, asset] if with_page else [address]


def _prefers_html(accept: str) -> bool:
    """Tell whether HTML is named and preferred to JSON; wildcards, which programs send, do not name it."""
    ranges = list(media_ranges(accept))
    named = [each for each in ranges if each[0] == HTML]
    return quality_of([HTML], named) > quality_of([JSON], ranges)


def _answer(file: File) -> Response[bytes]:
    return Response(file.content, headers=dict(file.headers))
