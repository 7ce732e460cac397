"""The built files of the page, read once, and the headers that each of them is sent with."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

BUILT = Path(__file__).parent / "assets"
INDEX = "index.html"
HASHED = "assets"
"""Directory below `BUILT`, and path below the page, of files whose names hold a hash of their content."""

NONCE_PLACE = b'nonce="NONCE"'
"""Where the index says the nonce of its one foreign style element, that of wavesurfer.js."""

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'nonce-{nonce}'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "media-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content security policy of the page: nothing from elsewhere, nothing inline. `blob:` is sound to play."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file and its headers."""

    content: bytes
    headers: Mapping[str, str]


@cache
def hashed_files() -> Mapping[str, File]:
    """Return the files that never change, by name."""
    return {
        path.name: File(
            content=path.read_bytes(),
            headers={
                "Content-Type": MEDIA_TYPES[path.suffix],
                "Cache-Control": "public, max-age=31536000, immutable",
            },
        )
        for path in sorted((BUILT / HASHED).iterdir())
    }


def index() -> File:
    """Return the index with a nonce of its own; so it is asked for anew every time."""
    nonce = secrets.token_urlsafe(16)
    return File(
        content=_template().replace(NONCE_PLACE, b'nonce="%s"' % nonce.encode()),
        headers={
            "Content-Type": "text/html; charset=utf-8",
            "Cache-Control": "no-store",
            "Content-Security-Policy": POLICY.format(nonce=nonce),
            "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Vary": "Accept",
        },
    )


@cache
def _template() -> bytes:
    return (BUILT / INDEX).read_bytes()
