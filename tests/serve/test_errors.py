"""An error that is handled holds on to nothing, and ends nobody who goes on."""

import asyncio
import weakref

from serve.errors import BadAdapter, let_go


class Recording:
    """Something whose end can be seen."""


def test_letting_an_error_go_frees_recordings_and_ends_no_coroutine_that_caught_it():
    held = []
    caught = []

    def fail():
        recording = Recording()
        held.append(weakref.ref(recording))
        raise BadAdapter("no")

    async def go_on():
        try:
            fail()
        except BadAdapter as error:
            caught.append(error)
        await asyncio.sleep(0)
        return "went on"

    async def let_it_go():
        task = asyncio.ensure_future(go_on())
        await asyncio.sleep(0)
        assert held[0]() is not None
        let_go(caught[0])
        assert held[0]() is None
        return await task

    assert asyncio.run(let_it_go()) == "went on"
