"""One phase of the load test, in a process of its own, because locust patches sockets and threads for gevent.

Users send clips one after the other, and wait as long as `Retry-After` says where they are refused. With
`rate_per_user`, each sends at about that rate, whatever it is told: it waits between half and one and a half
of its turn after each answer, and begins at a random time of its first turn, so that not all send at once.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import gevent
from locust import FastHttpUser, between, constant, task
from locust.env import Environment

STOP_S = 30.0


def run_phase(
    address: str, clips: list[Path], n_users: int, rate_per_user: float, seconds: float
) -> list[list[float]]:
    """Return (begin, seconds, status) of each answer; status 0 stands for none.

    Begins are in seconds since the phase began.
    """
    bodies = [clip.read_bytes() for clip in clips]
    answers: list[list[float]] = []
    begun = time.perf_counter()
    turn = iter(range(sys.maxsize))
    chance = random.Random(0)

    class Client(FastHttpUser):
        host = address
        wait_time = between(0.5 / rate_per_user, 1.5 / rate_per_user) if rate_per_user else constant(0)
        network_timeout = connection_timeout = 120.0

        def on_start(self) -> None:
            if rate_per_user:
                gevent.sleep(chance.uniform(0, 1 / rate_per_user))

        @task
        def transcribe(self) -> None:
            body = bodies[next(turn) % len(bodies)]
            sent = time.perf_counter()
            with self.client.post(
                "/invocations", data=body, headers={"Content-Type": "audio/flac"}, catch_response=True
            ) as response:
                answers.append(
                    [round(sent - begun, 4), round(time.perf_counter() - sent, 4), response.status_code or 0]
                )
                response.success()  # what an answer means is decided by who reads the list
                wait_s = float((response.headers or {}).get("Retry-After", 0))
            if not rate_per_user:
                gevent.sleep(wait_s)

    environment = Environment(user_classes=[Client], stop_timeout=STOP_S)
    runner = environment.create_local_runner()
    runner.start(n_users, spawn_rate=n_users)
    gevent.sleep(seconds)
    runner.quit()
    return answers


if __name__ == "__main__":
    phase = json.loads(sys.stdin.read())
    found = run_phase(
        phase["address"],
        [Path(clip) for clip in phase["clips"]],
        phase["n_users"],
        phase["rate_per_user"],
        phase["seconds"],
    )
    print(json.dumps(found))
