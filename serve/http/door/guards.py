"""Who may come in: web pages by their origin, programs by their API key. Knows no body.

A browser sends `Origin` with every WebSocket and every request that changes something, whatever page made it
do so. Programs send none, and are let in. Pages that this service itself delivers have its own address as
origin; others must be listed in `cors_origins`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import structlog
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.handlers import BaseRouteHandler
from sagemaker_inference import content_types

from serve.config.settings import Settings
from serve.errors import ConfigError, ForeignOrigin, StartupError, UnsupportedMediaType, WrongKey

Role = Literal["use", "admin"]
"""What a key is good for: transcription alone, or everything."""

ADMIN_PATHS = ("/adapters", "/models", "/metrics")
"""These, and what lies below them, need an admin's key where keys are demanded."""

INVOKE = re.compile("/models/[^/]+/invoke")
"""The path below them that transcribes. Names are decoded, so one with a slash is none: no route has it."""

OPEN_PATHS = ("/", "/ping")
"""Answered without a key: platforms have none, and the page must load before it can ask for one."""

OPEN_BELOW = "/assets/"
"""The files of the page."""

KEY_PROTOCOL = "openai-insecure-api-key."
"""Begins the WebSocket subprotocol in which browsers send a key to OpenAI, whose headers they cannot set."""

REREAD_S = 1.0
"""How often the file of keys is looked at."""

MAX_KEYS_BYTES = 1 << 20

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

_log = structlog.get_logger(__name__)

Connection = ASGIConnection[Any, Any, Any, State]


def is_admin_path(path: str) -> bool:
    """Tell whether a path changes what is served, or tells figures of it."""
    below = any(path == each or path.startswith(f"{each}/") for each in ADMIN_PATHS)
    return below and not INVOKE.fullmatch(path)


def check_origin(connection: Connection, _: BaseRouteHandler) -> None:
    """Refuse pages of other origins on sockets and on routes that change something.

    Raises:
        ForeignOrigin: The page's origin is neither this service nor listed.
        UnsupportedMediaType: The body is of a type that any page may send.
    """
    is_socket = connection.scope["type"] == ScopeType.WEBSOCKET
    changes = not is_socket and connection.scope["method"] not in ("GET", "HEAD", "OPTIONS")  # type: ignore[typeddict-item]
    if not is_socket and not (changes and is_admin_path(connection.scope["path"])):
        return
    origin, host = connection.headers.get("origin"), connection.headers.get("host", "")
    listed = connection.app.state.service.settings.cors_origins
    if origin is not None and not may_come_from(origin, host, listed, any_if_starred=is_socket):
        raise ForeignOrigin(origin)
    media_type = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
    if changes and media_type not in ("", content_types.JSON):
        raise UnsupportedMediaType("send application/json here")


def may_come_from(origin: str, host: str, listed: str, *, any_if_starred: bool) -> bool:
    """Tell whether pages of an origin may use the service.

    Args:
        host: The address that they asked for.
        listed: The origins that the settings allow, separated by commas.
        any_if_starred: Whether `*` among them stands for any origin.
    """
    names = [name for each in listed.split(",") if (name := each.strip().rstrip("/"))]
    if (any_if_starred and "*" in names) or origin.rstrip("/") in names:
        return True
    place = _place(origin)
    return place is not None and place == _place(f"//{host}", origin)


def _place(url: str, like: str = "") -> tuple[str | None, int | None] | None:
    """Return host and port of a URL; one without a scheme gets that of `like`."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme or urlsplit(like).scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None


class Keys:
    """API keys by their SHA-256, read from a file that may change at any time.

    Each line is `NAME ROLE SHA256`, as `printf %s "$KEY" | sha256sum` gives it; the role is `use` or `admin`.
    Keys must be random and long: a hash of a guessable one can be guessed.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ConfigError: It cannot be read, or a line is malformed.
        """
        self._path = path
        self._stamp = self._look()
        self._next_look_s = 0.0
        self._known = self._read()

    def role_of(self, key: str) -> Role | None:
        """Return what a key is good for; None where it is not known. Takes the same time for each."""
        self._reread()
        digest, role = hashlib.sha256(key.encode(errors="replace")).hexdigest(), None
        for known, its_role in self._known:
            if hmac.compare_digest(known, digest):
                role = its_role
        return role

    def _reread(self) -> None:
        if time.monotonic() < self._next_look_s:
            return
        self._next_look_s = time.monotonic() + REREAD_S
        try:
            if (stamp := self._look()) != self._stamp:
                self._known, self._stamp = self._read(), stamp
                _log.info("keys.read", n_keys=len(self._known))
        except StartupError as error:  # the keys that were read before stay valid
            _log.error("keys.failed", error=str(error))

    def _look(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise ConfigError([f"api_keys: {self._path} cannot be read: {error.strerror}"]) from error
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> list[tuple[str, Role]]:
        try:
            with self._path.open(encoding="utf-8") as file:
                lines = file.read(MAX_KEYS_BYTES).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"api_keys: {self._path} cannot be read"]) from error
        known: list[tuple[str, Role]] = []
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            is_hash = len(words) == 3 and len(words[2]) == 64 and set(words[2]) <= set("0123456789abcdef")
            if not is_hash or words[1] not in ("use", "admin"):
                raise ConfigError([f"api_keys: line {number} is not NAME use|admin SHA256"])
            known.append((words[2], "admin" if words[1] == "admin" else "use"))
        return known


def read_keys(settings: Settings) -> Keys | None:
    """Return the keys that the settings name; None where anybody may use the service.

    Raises:
        ConfigError: The file cannot be read, or a line is malformed.
    """
    return None if settings.api_keys is None else Keys(settings.api_keys)


def check_key(connection: Connection, _: BaseRouteHandler) -> None:
    """Demand a key where the settings name a file of them.

    Raises:
        WrongKey: There is none, it is not known, or the route needs an admin's.
    """
    keys: Keys | None = connection.app.state.api_keys
    path = connection.scope["path"]
    if keys is None or path in OPEN_PATHS or path.startswith(OPEN_BELOW):
        return
    key = _key_of(connection)
    role = keys.role_of(key) if key else None
    if role is None:
        raise WrongKey("send a key of this service as 'Authorization: Bearer KEY'")
    if is_admin_path(path) and role != "admin":
        raise WrongKey("this route needs an admin's key")


def _key_of(connection: Connection) -> str:
    """Return the key that a request carries; empty where it carries none.

    Deepgram's clients say `Token` for `Bearer`. A browser's socket has subprotocols for headers: OpenAI's
    pages put the key into one of them, Deepgram's behind `token`.
    """
    kind, _, rest = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() in ("bearer", "token"):
        return rest.strip()
    protocols = [each.strip() for each in connection.headers.get("sec-websocket-protocol", "").split(",")]
    for number, protocol in enumerate(protocols):
        if protocol.startswith(KEY_PROTOCOL):
            return protocol.removeprefix(KEY_PROTOCOL)
        if protocol in ("token", "bearer") and number + 1 < len(protocols):
            return protocols[number + 1]
    return connection.headers.get("x-api-key", "").strip()
