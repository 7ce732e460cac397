"""The doors of a running service: each sends one mutated input, and tells what came back."""

from __future__ import annotations

import json
import random
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
from websockets.exceptions import InvalidHandshake, WebSocketException
from websockets.sync.client import connect

from bench.fuzzing.mutations import mutate
from bench.fuzzing.seeds import HEADS, LIVE_DOORS, TRAINING, forms, jsons
from serve.errors import ShrotaError
from train.config.file import load_config

PATIENCE_S = 30.0
SAVED = "adapter_model.safetensors"
HEADER_BYTES = 40_000
"""Header of a safetensors file that is mutated; numbers behind it are only numbers."""
MARKS = (b"Traceback", b"site-packages", b'.py", line')
"""What no client should read."""

Outcome = str
"""A status, `closed`, or a sentence that begins with FAULT."""
FAULT = "fault: "


class Route(NamedTuple):
    """A route that loads what lies in a directory, and its words for the name and the directory."""

    path: str
    name_field: str
    source_field: str


ADAPTERS = Route("/adapters", "name", "src")
MODELS_ROUTE = Route("/models", "model_name", "url")

FORM_ROUTES = ("/invocations", "/v1/audio/transcriptions", "/v1/audio/translations")
FORM_TYPE = "multipart/form-data; boundary=frontier"

Door = Callable[[random.Random], tuple[bytes, Outcome]]
"""Sends one input; returns it, and what came back."""


def judged(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """Return the outcome of an HTTP answer."""
    if status >= 500 and not (status == 503 and "retry-after" in headers):
        return f"{FAULT}status {status}: {body[:200]!r}"
    if any(mark in body for mark in MARKS):
        return f"{FAULT}the answer tells of the program: {body[:200]!r}"
    return str(status)


def http_doors(client: httpx.Client, recordings: Mapping[str, bytes]) -> dict[str, Door]:
    """Return the doors for recordings, forms and JSON."""
    sounds = list(recordings.values())
    short = recordings["flac"]

    def post(path: str, body: bytes, content_type: str) -> tuple[bytes, Outcome]:
        try:
            answer = client.post(path, content=body, headers={"Content-Type": content_type})
        except httpx.TransportError as error:
            return body, f"{FAULT}{type(error).__name__}"
        return body, judged(answer.status_code, answer.headers, answer.content)

    def recording(chance: random.Random) -> tuple[bytes, Outcome]:
        body = mutate(chance.choice(sounds), chance, sounds)
        return post("/invocations", body, chance.choice(("", "audio/wav", "application/octet-stream")))

    def form(chance: random.Random) -> tuple[bytes, Outcome]:
        body = mutate(chance.choice(forms(short)), chance, forms(short))
        charset = chance.choice(("", "", "; charset=utf-7", "; charset=foo"))
        return post(chance.choice(FORM_ROUTES), body, f"{FORM_TYPE}{charset}")

    def json_body(chance: random.Random) -> tuple[bytes, Outcome]:
        body = mutate(chance.choice(jsons(short)), chance)
        return post(chance.choice(("/invocations", "/adapters", "/models")), body, "application/json")

    return {"recordings": recording, "forms": form, "JSON": json_body}


def honest(recordings: Mapping[str, bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the arguments of a request for each seed as it is."""
    for sound in recordings.values():
        yield "/invocations", {"content": sound}
    for path in FORM_ROUTES:
        for form in forms(recordings["flac"]):
            yield path, {"content": form, "headers": {"Content-Type": FORM_TYPE}}
    for body in jsons(recordings["flac"]):
        yield "/invocations", {"content": body, "headers": {"Content-Type": "application/json"}}


def head_door(address: tuple[str, int]) -> Door:
    """Return the door for raw heads."""

    def head(chance: random.Random) -> tuple[bytes, Outcome]:
        sent = mutate(chance.choice(HEADS), chance, HEADS)
        received = b""
        with suppress(ConnectionError), socket.create_connection(address, timeout=PATIENCE_S) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            try:
                while piece := connection.recv(65_536):
                    received += piece
            except TimeoutError:
                return sent, f"{FAULT}neither answered nor closed in {PATIENCE_S:.0f} s"
        if not received:
            return sent, "closed"
        words = received.split(b" ", 2)
        status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        retry = {"retry-after": ""} if b"retry-after" in received.lower() else {}
        return sent, judged(status, retry, received)

    return head


def live_door(address: tuple[str, int]) -> Door:
    """Return the door for WebSockets: a few frames, some of them not text, some not even frames."""
    doors = list(LIVE_DOORS)

    def live(chance: random.Random) -> tuple[bytes, Outcome]:
        path = chance.choice(doors)
        known = LIVE_DOORS[path]
        if chance.random() < 0.3:
            path = quote(mutate(path.encode(), chance).decode("latin-1"), safe="/?=&")
        frames = [_frame(chance, known) for _ in range(chance.randint(1, 5))]
        sent = b"\n".join([path.encode(), *(f if isinstance(f, bytes) else f.encode() for f in frames)])
        try:
            with connect(
                "ws://{}:{}{}".format(*address, path), open_timeout=PATIENCE_S, close_timeout=5
            ) as link:
                for frame in frames:
                    link.send(frame)
                if chance.random() < 0.2:
                    link.socket.sendall(chance.randbytes(chance.randint(1, 200)))
                with suppress(TimeoutError):
                    while True:
                        if any(mark in _bytes_of(link.recv(timeout=0.05)) for mark in MARKS):
                            return sent, f"{FAULT}a frame tells of the program"
        except InvalidHandshake as error:
            status = getattr(getattr(error, "response", None), "status_code", 0)
            return sent, judged(status, {"retry-after": ""} if status == 503 else {}, b"")
        except (WebSocketException, OSError) as error:
            code = getattr(getattr(error, "rcvd", None), "code", None)
            return sent, f"{FAULT}closed with 1011" if code == 1011 else f"closed {code or ''}".strip()
        except ValueError:
            return sent, "not sent"  # the client refuses the address
        return sent, "open"

    return live


def _frame(chance: random.Random, known: Sequence[bytes]) -> bytes | str:
    if chance.random() < 0.4:
        return chance.randbytes(chance.choice((1, 2, 3, 640, 3_201)))
    text = chance.choice(known)
    return (mutate(text, chance) if chance.random() < 0.8 else text).decode("utf-8", "replace")


def _bytes_of(frame: str | bytes) -> bytes:
    return frame.encode() if isinstance(frame, str) else frame


def artifact_door(
    client: httpx.Client, route: Route, artifact_dir: Path, scratch: Path, sound: bytes | None = None
) -> Door:
    """Return the door for adapters or models: a directory with a damaged manifest, configuration or header.

    Args:
        sound: What a model that was taken nevertheless is asked to transcribe.
    """
    adapter = artifact_dir / "adapter"
    files = {
        "manifest.json": (artifact_dir / "manifest.json").read_bytes(),
        "adapter/adapter_config.json": (adapter / "adapter_config.json").read_bytes(),
        f"adapter/{SAVED}": (adapter / SAVED).read_bytes(),
    }

    def ask(name: str, body: bytes) -> Outcome:
        headers = {"Content-Type": "application/json"}
        try:
            answer = client.post(route.path, content=body, headers=headers)
            outcome = judged(answer.status_code, answer.headers, answer.content)
            if answer.is_success and sound is not None:
                heard = client.post(f"{route.path}/{name}/invoke", content=sound)
                said = judged(heard.status_code, heard.headers, heard.content)
                outcome = said if said.startswith(FAULT) else outcome
            if answer.is_success:
                client.delete(f"{route.path}/{name}")
        except httpx.TransportError as error:
            return f"{FAULT}{type(error).__name__}"
        return outcome

    def add(chance: random.Random) -> tuple[bytes, Outcome]:
        name = f"fuzz-{chance.randrange(1 << 40):x}"
        directory = scratch / name
        chosen = chance.choice([*files, "body"])
        for path, content in files.items():
            damaged = content
            if path == chosen:
                damaged = mutate(content[:HEADER_BYTES], chance) + content[HEADER_BYTES:]
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(damaged)
        body = json.dumps({route.name_field: name, route.source_field: str(directory)}).encode()
        if chosen == "body":
            body = mutate(body, chance)
        try:
            sent = body if chosen == "body" else (directory / chosen).read_bytes()[:HEADER_BYTES]
            return sent, ask(name, body)
        finally:
            shutil.rmtree(directory)

    return add


def training_door(scratch: Path) -> Door:
    """Return the door for configurations of training, which are read in this process."""

    def configure(chance: random.Random) -> tuple[bytes, Outcome]:
        text = mutate(TRAINING, chance)
        path = scratch / f"fuzz-{chance.randrange(1 << 40):x}.yaml"
        path.write_bytes(text)
        try:
            load_config(path)
        except ShrotaError:
            return text, "refused"
        except Exception as error:
            return text, f"{FAULT}{type(error).__name__}: {str(error)[:200]}"
        finally:
            path.unlink()
        return text, "read"

    return configure


def as_line(outcome: str, sent: bytes, door: str) -> str:
    """Return a fault as a line of a corpus."""
    return json.dumps({"door": door, "outcome": outcome, "sent_hex": sent[:4_000].hex()})
