"""The WebSocket of a SageMaker container: sound in and text out at the same time.

The client sends a text frame of settings, binary frames of sound, and at the end `{"type": "end"}` or an
empty binary frame. The service sends text frames, and closes with 1000. An error is sent as a text frame
`{"ModelStreamError"}`, followed by a close code that tells whose fault it is.
"""

from __future__ import annotations

from litestar import websocket
from litestar.datastructures import State

from serve import errors
from serve.http.live.stream import AnySocket, Stream, json_object
from serve.http.sagemaker.invocations import options_outside_body
from serve.service.live.settings import LiveSettings, parse_live_settings
from serve.transcript.events import LiveDone, LiveEvent
from serve.transcript.live_text import encode_live, encode_stream_error

PATH = "/invocations-bidirectional-stream"


@websocket(PATH)
async def live_stream(socket: AnySocket, state: State) -> None:
    """Transcribe speech while it is being spoken."""
    await BidirectionalStream(socket, state).attend()


class BidirectionalStream(Stream):
    route = PATH
    _has_words = False

    async def read_settings(self) -> LiveSettings:
        """Read the first frame.

        Raises:
            RequestError: It is not a text frame of valid settings.
            BodyTimeout: It did not arrive in time.
        """
        _, options = options_outside_body(self.socket)
        frame = await self.next_frame("settings")
        if not isinstance(frame, str):
            raise errors.RequestError("the first frame must be text: the settings, a JSON object")
        settings = parse_live_settings(json_object(frame), options)
        self._has_words = settings.options.word_timestamps
        return settings

    async def take(self, frame: str | bytes) -> bool:
        """Take sound, or the end."""
        if isinstance(frame, bytes):
            if frame:
                await self.hear(frame)
            return bool(frame)
        if json_object(frame) != {"type": "end"}:
            raise errors.RequestError('a text frame after the settings can only be {"type": "end"}')
        return False

    async def say(self, number: int, event: LiveEvent) -> None:
        """Send the open phrase so far, or a whole one."""
        if not isinstance(event, LiveDone):
            await self.socket.send_text(encode_live(event, words=self._has_words))

    async def tell_error(self, code: str, message: str) -> None:
        """Send SageMaker's error frame."""
        await self.socket.send_text(encode_stream_error(code, message))
