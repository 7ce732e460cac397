"""The life of a service without its sockets: how it ends when it cannot begin."""

import threading

import pytest

from serve.config.settings import Settings
from serve.errors import NotReady
from serve.service.service import Service


@pytest.mark.parametrize("multi_model", [True, False])
def test_whatever_fails_at_the_start_is_told_and_ends_the_loading(monkeypatch, multi_model):
    def broken(*args):
        raise RuntimeError("the detector cannot be loaded")

    monkeypatch.setattr("serve.audio.segmentation.find_speech", broken)
    told = threading.Event()
    service = Service(Settings(multi_model=multi_model), load=broken)
    service.start(told.set)
    assert told.wait(timeout=60)
    assert service.state == "dead" and "cannot be loaded" in str(service.failure)
    with pytest.raises(NotReady, match="could not be loaded"):
        service.check_ready()
    service.close()
