"""Adapters that come and go for a long time while clients are served, by `python -m serve` itself."""

import shutil
import sys
import threading
import time

import httpx
import pytest

N_CLIENTS = 8
N_WARM_UP_ROUNDS = 5
"""Until all that is loaded once is loaded."""
N_ROUNDS = 50


class Client(threading.Thread):
    """Asks again and again, for the adapter that `current` names."""

    def __init__(self, address, wav, current, over):
        super().__init__()
        self.address, self.wav, self.current, self.over = address, wav, current, over
        self.statuses = []

    def run(self):
        with httpx.Client(base_url=self.address, timeout=120) as client:
            while not self.over.is_set():
                name = self.current[0]
                answer = client.post(f"/invocations?adapter={name}&language=mr", content=self.wav)
                # One that was removed before the request came is refused, which is no failure of a request.
                refused = answer.status_code == 400 and f"'{name}' is not served" in answer.text
                too_late = refused and name != self.current[0]
                self.statuses.append("refused" if too_late else answer.status_code)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ctranslate2", "transformers"])
def test_fifty_loads_and_unloads_under_traffic_fail_no_request_and_leave_no_memory_behind(
    start_child, tmp_path, tiny_artifact_dir, write_tiny_artifact, speech_wav, engine
):
    served = shutil.copytree(tiny_artifact_dir, tmp_path / "served")
    sources = [write_tiny_artifact(tmp_path / f"{seed}", seed=seed) for seed in (2, 3)]
    child = start_child(
        *(sys.executable, "-m", "serve", "--model-dir", str(served), "--engine", engine),
        *("--quantization", "none", "--n-threads", "1", "--host", "127.0.0.1", "--port", "0"),
        *("--adapter-roots", str(tmp_path), "--cache-dir", str(tmp_path / "cache")),
    )
    over, current = threading.Event(), ["tiny-mr"]
    with child.client() as operator:
        child.wait_for("model.ready")
        clients = [Client(operator.base_url, speech_wav, current, over) for _ in range(N_CLIENTS)]
        for client in clients:
            client.start()

        def answers():
            return [len(client.statuses) for client in clients]

        def round_of(number):
            name = f"round-{number}"
            added = operator.post("/adapters", json={"name": name, "src": str(sources[number % 2])})
            assert added.status_code == 200, added.text
            current[0], before = name, sum(answers())
            while sum(answers()) < before + 2:
                time.sleep(0.01)
            current[0] = "tiny-mr"
            assert operator.delete(f"/adapters/{name}").status_code == 200

        def bytes_without_removed_adapters():
            # A request holds its adapter to its end: once all that were on their way have been answered, and
            # those sent meanwhile, nobody holds one that is gone. The traffic goes on.
            before = answers()
            while min(now - then for now, then in zip(answers(), before, strict=True)) < 2:
                time.sleep(0.01)
            return child.resident_bytes()

        try:
            for number in range(N_WARM_UP_ROUNDS):
                round_of(number)
            before_bytes = bytes_without_removed_adapters()
            for number in range(N_WARM_UP_ROUNDS, N_WARM_UP_ROUNDS + N_ROUNDS):
                round_of(number)
            after_bytes = bytes_without_removed_adapters()
        finally:
            over.set()
            for client in clients:
                client.join(120)
        statuses = [status for client in clients for status in client.statuses]
        served_requests = statuses.count(200)
        print(
            f"{engine}: {served_requests} requests served, {statuses.count('refused')} came too late,"
            f" {before_bytes / 2**20:.1f} -> {after_bytes / 2**20:.1f} MiB"
        )
        assert set(statuses) <= {200, "refused"} and served_requests > 2 * N_ROUNDS
        assert after_bytes < 1.05 * before_bytes
        assert len(operator.get("/adapters").json()["adapters"]) == 1
