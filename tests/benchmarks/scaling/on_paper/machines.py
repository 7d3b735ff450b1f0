"""Constants of two threads of a CPU, and what was measured, to hold the table of a step's terms against."""

from collections.abc import Iterator, Mapping
from dataclasses import fields

from tasks.planner.processors import GIB, Constant, Processor, Protocol

_HERE = "tests/benchmarks/scaling/on_paper/constants.py"
PAIR = {
    "product_alone": Constant(194e9, f"{_HERE}: FLOP/s of the encoder's product by one thread"),
    "product": Constant(194e9, f"{_HERE}: the same beside another"),
    "memory_alone": Constant(22.3e9, f"{_HERE}: bytes/s of all else in a step by one thread"),
    "memory": Constant(22.2e9, f"{_HERE}: the same beside another"),
    "latency_shared": Constant(4.9e-5, f"{_HERE}: s of a number's sum through shared memory"),
    "sent_shared": Constant(6.2e9, f"{_HERE}: bytes/s of weights through shared memory"),
    "latency_sockets": Constant(1.6e-4, f"{_HERE}: s of a number's sum by gloo"),
    "sent_sockets": Constant(1.3e9, f"{_HERE}: bytes/s of weights by gloo"),
}
"""Of two threads of an EPYC's two shared cores."""
LINKS = ("shared", "sockets")


def cpu(given: Mapping[str, Constant], link: str, alone: bool) -> Processor:
    """A thread of those, alone or beside another to which it has that link."""
    none, suffix = Constant(0.0, "in the others"), "_alone" if alone else ""
    return Processor(
        name="CPU",
        product=given[f"product{suffix}"],
        memory=given[f"memory{suffix}"],
        capacity=Constant(11 * GIB, "half of 23.5 GiB"),
        node=2,
        inside=given[f"sent_{link}"],
        between=given[f"sent_{link}"],
        overhead=none,
        protocols=(Protocol(name=link, start=given[f"latency_{link}"], hop=none, far_hop=none, share=Constant(1.0, "all")),),
    )


_ROUNDS = "tests/benchmarks/scaling/workers.py, medians of 15 rounds, of 5 with --sockets"
MEASURED = {
    ("shared", "2x1"): Constant(1.79, _ROUNDS),
    ("shared", "1x2"): Constant(1.77, _ROUNDS),
    ("sockets", "2x1"): Constant(1.18, _ROUNDS),
    ("sockets", "1x2"): Constant(1.49, _ROUNDS),
}
"""Speed of two workers over that of one, by link and mesh of tests/benchmarks/scaling/workers.py."""
_ONE_H200 = "one H200, torch 2.11, medians, rows with a 1/rank spectrum, no latent dead"
ON_A_CARD = {
    ("Triton", 768): Constant(2.1e-3, f"{_ONE_H200}, the sketch"),
    ("Triton", 4096): Constant(25.2e-3, f"{_ONE_H200}, the sketch"),
    ("plain torch", 768): Constant(5.5e-3, f"{_ONE_H200}, commit 4c15dd5"),
    ("plain torch", 4096): Constant(49.4e-3, f"{_ONE_H200}, commit 4c15dd5"),
}
"""Seconds of a whole step by kernels and d_in, of d_sae 24,576 with k 32 and 8,192 rows, and of 65,536, 64 and 16,384."""


def constants(machine: Processor) -> Iterator[tuple[str, float, str]]:
    """What, how much, from where."""
    yield from (
        (_ABOUT[f.name], c, c.source) for f in fields(machine) if isinstance(c := getattr(machine, f.name), Constant)
    )
    for p in machine.protocols:
        for f in fields(p):
            if isinstance(c := getattr(p, f.name), Constant):
                yield f"{p.name}: {_ABOUT[f.name]}", c, c.source


_ABOUT = {
    "product": "encoder's product in bfloat16, FLOP/s",
    "memory": "memory read or written, bytes/s",
    "capacity": "memory, bytes",
    "inside": "sent by a worker within a node, bytes/s",
    "between": "sent between nodes, bytes/s per worker",
    "overhead": "launches and waits of the host, s per step",
    "start": "latency of a collective, s",
    "hop": "and per worker passed within a node, s",
    "far_hop": "and per node passed, s",
    "share": "share of the links' speed",
}
