"""Machines as constants, each with where it is from; speeds are those that are reached, not those of data sheets."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

MICROSECOND = 1e-6


class Constant(float):
    """A number and its source."""

    source: str

    def __new__(cls, value: float, source: str) -> "Constant":
        made = super().__new__(cls, value)
        made.source = source
        return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """A way to pass messages round a ring."""

    name: str
    start: Constant
    """Seconds, once."""
    hop: Constant
    """Seconds per worker passed within a node."""
    far_hop: Constant
    """Seconds per node passed."""
    share: Constant
    """Of the links' speed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One worker's processor and its links to the others."""

    name: str
    product: Constant
    """The encoder's product in bfloat16, FLOP/s"""
    memory: Constant
    """Memory, bytes/s read or written"""
    capacity: Constant
    """Memory, bytes"""
    node: int
    """Workers per node."""
    inside: Constant
    """Within a node, bytes/s that a worker sends"""
    between: Constant
    """Between nodes, bytes/s per worker"""
    overhead: Constant
    """Launches and waits of the host, s per step"""
    protocols: tuple[Protocol, ...]

    def ring(self, sent_bytes: float, on_node: int, nodes: int, turns: int) -> float:
        """Seconds of a ring through ``nodes`` nodes with ``on_node`` of its workers on each, by the fastest protocol.

        The ring enters and leaves each node once, through as many adapters as it has workers there: the other workers'
        rings need the rest.
        """
        speed = self.inside if nodes == 1 else min(self.inside, self.between * on_node)
        near, far = nodes * on_node - nodes, nodes - 1
        return min(
            p.start + turns * (near * p.hop + far * p.far_hop) + sent_bytes / (speed * p.share) for p in self.protocols
        )


_NCCL = "NCCL, src/graph/tuning.cc (2.20), ring"
LL = Protocol(
    name="LL",
    start=Constant(6.6 * MICROSECOND, _NCCL),
    hop=Constant(0.6 * MICROSECOND, _NCCL),
    far_hop=Constant(2.7 * MICROSECOND, _NCCL),
    share=Constant(0.25, _NCCL),
)
SIMPLE = Protocol(
    name="Simple",
    start=Constant(8.4 * MICROSECOND, _NCCL),
    hop=Constant(3.4 * MICROSECOND, _NCCL),
    far_hop=Constant(14.0 * MICROSECOND, _NCCL),
    share=Constant(1.0, _NCCL),
)
GIB = 2**30
_COPY = "measured on one H200: 8.6 GB copied on the device in 2.0 ms, reads and writes counted"
_SKETCH = "measured on one H200 with a sketch of the Triton kernels"
H200 = Machine(
    name="H200",
    product=Constant(788e12, "measured on one H200: 8192 x 8192 x 8192 by PyTorch, random numbers; data sheet: 989e12"),
    memory=Constant(4.3e12, f"{_COPY}; data sheet: 4.8e12"),
    capacity=Constant(135 * GIB, "139 GiB as PyTorch sees them, less 4 for CUDA, NCCL and the allocator (assumed)"),
    node=8,
    inside=Constant(360e9, "nccl-tests#326: bus bandwidth of all-gather on 8 H100, as NCCL's maintainers expect it"),
    between=Constant(46e9, "nccl-tests#290: 46 to 48e9 per 400 Gbit/s adapter, one for each GPU"),
    overhead=Constant(3e-4, f"{_SKETCH}: 2.0 to 2.2 ms a step of d_in 768, 1.9 of them in its kernels"),
    protocols=(LL, SIMPLE),
)
H100 = replace(
    H200,
    name="H100",
    memory=Constant(3.0e12, "assumed: the data sheet's 3.35e12, of which the same share is reached as on an H200"),
    capacity=Constant(75 * GIB, "79 GiB, less 4 likewise"),
)


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


def cpu(given: Mapping[str, Constant], link: str, alone: bool) -> Machine:
    """A thread of those, alone or beside another to which it has that link."""
    none, suffix = Constant(0.0, "in the others"), "_alone" if alone else ""
    return Machine(
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


GPUS = {"H200": H200, "H100": H100}
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


def constants(machine: Machine) -> Iterator[tuple[str, float, str]]:
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
