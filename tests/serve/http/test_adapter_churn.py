"""Adapters that come and go for a long time while clients are served."""

import ctypes
import gc
import shutil
import threading
import time

import httpx
import pytest

from serve.http.service import load_from_settings
from serve.memory import resident_bytes

N_CLIENTS = 8
N_ROUNDS = 50


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ctranslate2", "transformers"])
def test_fifty_loads_and_unloads_under_traffic_fail_no_request_and_leave_no_memory_behind(
    serve, tmp_path, tiny_artifact_dir, write_tiny_artifact, speech_wav, engine
):
    served = shutil.copytree(tiny_artifact_dir, tmp_path / "served")
    sources = [write_tiny_artifact(tmp_path / f"{seed}", seed=seed) for seed in (2, 3)]
    running = serve(
        load_from_settings,
        model_dir=served,
        engine=engine,
        quantization="none",
        n_threads=1,
        cache_dir=tmp_path / "cache",
        user_code=False,
    )
    over, statuses, current = threading.Event(), [], ["tiny-mr"]

    def ask(address):
        with httpx.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=120) as client:
            while not over.is_set():
                name = current[0]
                answer = client.post(f"/invocations?adapter={name}&language=mr", content=speech_wav)
                # One that was removed before the request came is refused, which is no failure of a request.
                refused = answer.status_code == 400 and f"'{name}' is not served" in answer.text
                statuses.append("refused" if refused and name != current[0] else answer.status_code)

    def round_of(number):
        name = f"round-{number}"
        added = running.client.post("/adapters", json={"name": name, "src": str(sources[number % 2])})
        assert added.status_code == 200, added.text
        current[0], before = name, len(statuses)
        while len(statuses) < before + 2:
            time.sleep(0.01)
        current[0] = "tiny-mr"
        assert running.client.delete(f"/adapters/{name}").status_code == 200

    clients = [threading.Thread(target=ask, args=(running.address,)) for _ in range(N_CLIENTS)]
    for client in clients:
        client.start()
    for number in range(5):  # until all that is loaded once is loaded
        round_of(number)
    before_bytes = trimmed_bytes()
    for number in range(5, 5 + N_ROUNDS):
        round_of(number)
    after_bytes = trimmed_bytes()
    over.set()
    for client in clients:
        client.join(120)
    served_requests = statuses.count(200)
    print(
        f"{engine}: {served_requests} requests served, {statuses.count('refused')} came too late,"
        f" {before_bytes / 2**20:.1f} -> {after_bytes / 2**20:.1f} MiB"
    )
    assert set(statuses) <= {200, "refused"} and served_requests > 2 * N_ROUNDS
    assert after_bytes < 1.05 * before_bytes
    assert len(running.client.get("/adapters").json()["adapters"]) == 1


def trimmed_bytes():
    """Return what is resident once the allocator has given back what it can."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident_bytes()
