"""What instances cost, roughly: a small table to warn by before money is spent. Estimates, not quotes.

USD an hour on demand in us-east-1, rounded, as they stood in mid-2025; other regions cost up to half more,
and prices change. `--price-per-hour` puts the right figure in its place. Storage and traffic come on top.
"""

from __future__ import annotations

from dataclasses import dataclass

AS_OF = "mid-2025"


@dataclass(frozen=True)
class Instance:
    """One type."""

    price_per_hour: float
    """In USD."""
    n_gpus: int = 0


INSTANCES = {
    "ml.m5.large": Instance(0.115),
    "ml.m5.xlarge": Instance(0.23),
    "ml.m5.2xlarge": Instance(0.46),
    "ml.m5.4xlarge": Instance(0.92),
    "ml.c5.xlarge": Instance(0.20),
    "ml.c5.2xlarge": Instance(0.41),
    "ml.c5.4xlarge": Instance(0.82),
    "ml.c5.9xlarge": Instance(1.84),
    "ml.c6i.xlarge": Instance(0.20),
    "ml.c6i.2xlarge": Instance(0.41),
    "ml.c6i.4xlarge": Instance(0.82),
    "ml.c6i.8xlarge": Instance(1.63),
    "ml.c7i.xlarge": Instance(0.21),
    "ml.c7i.2xlarge": Instance(0.43),
    "ml.c7i.4xlarge": Instance(0.86),
    "ml.c7i.8xlarge": Instance(1.71),
    "ml.g4dn.xlarge": Instance(0.74, 1),
    "ml.g4dn.2xlarge": Instance(0.94, 1),
    "ml.g4dn.12xlarge": Instance(4.89, 4),
    "ml.g5.xlarge": Instance(1.41, 1),
    "ml.g5.2xlarge": Instance(1.52, 1),
    "ml.g5.4xlarge": Instance(2.03, 1),
    "ml.g5.12xlarge": Instance(7.09, 4),
    "ml.g5.48xlarge": Instance(20.4, 8),
    "ml.g6.xlarge": Instance(1.13, 1),
    "ml.g6.2xlarge": Instance(1.22, 1),
    "ml.g6.4xlarge": Instance(1.65, 1),
    "ml.g6.12xlarge": Instance(5.75, 4),
    "ml.g6.48xlarge": Instance(16.7, 8),
    "ml.p4d.24xlarge": Instance(25.3, 8),
    "ml.p5.48xlarge": Instance(63.3, 8),
}


def price_of(instance_type: str, given: float | None) -> float | None:
    """Return USD an hour: the given price, or the table's; None where neither knows."""
    if given is not None:
        return given
    known = INSTANCES.get(instance_type)
    return known.price_per_hour if known else None


def gpus_of(instance_type: str) -> int | None:
    """Return how many GPUs an instance has; None where the table does not know."""
    known = INSTANCES.get(instance_type)
    return known.n_gpus if known else None


def describe_price(instance_type: str, count: int, given: float | None) -> str:
    """Return one clause about what so many instances cost an hour."""
    price = price_of(instance_type, given)
    if price is None:
        return f"the price of {instance_type} is not known; --price-per-hour names it"
    source = "as given" if given is not None else f"estimated: us-east-1, on demand, {AS_OF}"
    return f"{count} x {instance_type} at {price:.2f} USD/h ({source}) is {count * price:.2f} USD/h"
