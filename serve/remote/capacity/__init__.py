"""Model an endpoint under daily traffic: how many instances it needs, how fast they answer, what they cost.

A discrete-event model in SimPy. The rules of admission and of batches are the service's own code; how long a
batch takes is fitted to a measurement of a real service (`bench/capacity.py`). Loads no model and no sound.

    traffic -> endpoint -> instance     recordings arrive, are routed, wait, and are decoded in batches
    plan                                hours of audio a day -> instances, latency, refusals and cost
"""
