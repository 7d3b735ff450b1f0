"""How many replicas of a model a cluster has room for. No Ray."""

from collections.abc import Sequence

# A little more than all there is: 0.3 / 0.1 is 2.9999999999999996.
_ROUNDING = 1e-6


def fitting(cpus: float, gpus: float, cpus_each: float, gpus_each: float) -> int:
    """How often so many CPUs and GPUs fit into what there is."""
    found = cpus / cpus_each
    return int((min(found, gpus / gpus_each) if gpus_each else found) + _ROUNDING)


def fitting_groups(machines: Sequence[tuple[float, float]], n: int, cpus_each: float, gpus_each: float) -> int:
    """How many groups of ``n`` actors fit, each of them on one machine.

    Args:
        machines: CPUs and GPUs of each.
        n: actors per group.
        cpus_each: of an actor.
        gpus_each: of an actor.
    """
    return sum(fitting(cpus, gpus, n * cpus_each, n * gpus_each) for cpus, gpus in machines)
