"""Our own protocol of live speech: GET /live, a WebSocket.

Binary frames are sound. Text frames of the client are `{"type": "finalize"}`, `{"type": "keepalive"}` and
`{"type": "close"}`; those of the service are `session`, `words`, `phrase`, `error` and `closed`. The address
names the sound's format and the options; with a token, a client that lost its connection goes on.
"""

from __future__ import annotations

from litestar import websocket
from litestar.datastructures import State

from serve import errors
from serve.http.door.json_text import read_object
from serve.http.live.stream import AnySocket, Stream
from serve.service.live.settings import LiveSettings, parse_live_settings
from serve.transcript.events import LiveEvent
from serve.transcript.live_text import ClosedFrame, ErrorFrame, SessionFrame, encode_frame, live_frame

PATH = "/live"
FORMATS = ("pcm_s16le", "pcm_f32le", "container")


@websocket(PATH)
async def live(socket: AnySocket, state: State) -> None:
    """Transcribe speech while it is being spoken."""
    await PlainStream(socket, state).attend()


class PlainStream(Stream):
    route = PATH
    can_come_back = True

    async def accept(self) -> None:
        """Accept, and read the query."""
        await super().accept()
        self._query = dict(self.query())

    def token(self) -> str | None:
        """Return the token of the session to go on with.

        Raises:
            RequestError: `after` is no number.
        """
        token, after = self._query.pop("token", None) or None, self._query.pop("after", "0") or "0"
        if not after.isdecimal() or len(after) > 12:
            raise errors.UnsupportedOption("after", "must be the number of the last event received")
        self.after = int(after)
        return token

    async def read_settings(self) -> LiveSettings:
        """Return the settings that the address names."""
        values = dict(self._query)
        encoding = values.pop("format", FORMATS[0])
        if encoding not in FORMATS:
            raise errors.UnsupportedOption("format", f"must be one of {', '.join(FORMATS)}")
        if "rate" in values:
            values["sample_rate"] = values.pop("rate")
        return parse_live_settings({"encoding": encoding, **values})

    async def greet(self) -> None:
        """Send the token."""
        assert self.run is not None, "it is open"
        frame = SessionFrame(token=self.run.token, received_bytes=self.run.n_received)
        await self.socket.send_text(encode_frame(frame))

    async def take(self, frame: str | bytes) -> bool:
        """Take sound, or a wish."""
        assert self.run is not None, "it is open"
        if isinstance(frame, bytes):
            await self.hear(frame)
            return True
        match read_object(frame).get("type"):
            case "finalize":
                self.run.session.wish("finalise")
            case "keepalive":
                pass
            case "close":
                return False
            case _:
                raise errors.RequestError("the type of a text frame is finalize, keepalive or close")
        return True

    async def say(self, number: int, event: LiveEvent) -> None:
        """Send words or a phrase."""
        await self.socket.send_text(encode_frame(live_frame(number, event)))

    async def tell_error(self, code: str, message: str) -> None:
        """Send the error frame."""
        await self.socket.send_text(encode_frame(ErrorFrame(code=code, message=message)))

    async def bye(self) -> None:
        """Tell that the text is complete."""
        await self.socket.send_text(encode_frame(ClosedFrame()))
