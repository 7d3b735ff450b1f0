"""Machines as constants, each with where it is from; speeds are those that are reached, not those of data sheets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

MICROSECOND = 1e-6


class Constant(float):
    """A number and its source."""

    source: str
    """Where it was measured, or which page says so."""

    def __new__(cls, value: float, source: str) -> "Constant":
        """The number, which remembers its source."""
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
class HarvestMeasure:
    """How fast one model's activations were taken."""

    flop_per_token: float
    """Of the model up to the hook."""
    tokens_per_second: Constant
    """Stored shards, encoding and copying included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Processor:
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
    harvests: tuple[HarvestMeasure, ...] = ()

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
_DRAIN = 306 / 363
_BARE = "measured on one H200, random weights, bf16, times 306/363, which encoding and the last shards leave of it"
_HARVESTS = (
    HarvestMeasure(
        flop_per_token=6.5e7, tokens_per_second=Constant(2.09e6 * _DRAIN, f"SmolLM2-135M to 8, context 256: {_BARE}")
    ),
    HarvestMeasure(
        flop_per_token=1.1e9, tokens_per_second=Constant(3.58e5 * _DRAIN, f"a 1B Llama to 8, context 1,024: {_BARE}")
    ),
    HarvestMeasure(
        flop_per_token=7.0e9, tokens_per_second=Constant(6.97e4 * _DRAIN, f"an 8B Llama to 15, context 1,024: {_BARE}")
    ),
)
H200 = Processor(
    name="H200",
    product=Constant(788e12, "measured on one H200: 8192 x 8192 x 8192 by PyTorch, random numbers; data sheet: 989e12"),
    memory=Constant(4.3e12, f"{_COPY}; data sheet: 4.8e12"),
    capacity=Constant(135 * GIB, "139 GiB as PyTorch sees them, less 4 for CUDA, NCCL and the allocator (assumed)"),
    node=8,
    inside=Constant(360e9, "nccl-tests#326: bus bandwidth of all-gather on 8 H100, as NCCL's maintainers expect it"),
    between=Constant(46e9, "nccl-tests#290: 46 to 48e9 per 400 Gbit/s adapter, one for each GPU"),
    overhead=Constant(3e-4, f"{_SKETCH}: 2.0 to 2.2 ms a step of d_in 768, 1.9 of them in its kernels"),
    protocols=(LL, SIMPLE),
    harvests=_HARVESTS,
)
H100 = replace(
    H200,
    name="H100",
    memory=Constant(3.0e12, "assumed: the data sheet's 3.35e12, of which the same share is reached as on an H200"),
    capacity=Constant(75 * GIB, "79 GiB, less 4 likewise"),
)

_THREAD = "tests/benchmarks/scaling/on_paper/constants.py, one thread of an EPYC with AVX512-BF16"
_NONE = Constant(0.0, "in the others")
CPU = replace(
    H200,
    name="CPU",
    product=Constant(194e9, f"{_THREAD}: FLOP/s of the encoder's product"),
    memory=Constant(22.3e9, f"{_THREAD}: bytes/s of all else in a step"),
    capacity=Constant(11 * GIB, "half of that machine's 23.5 GiB"),
    node=64,
    inside=Constant(6.2e9, f"{_THREAD}: bytes/s of weights through shared memory"),
    between=Constant(1.3e9, f"{_THREAD}: bytes/s of weights by gloo"),
    overhead=_NONE,
    harvests=(),
    protocols=(
        Protocol(
            name="shared",
            start=Constant(4.9e-5, f"{_THREAD}: s of a number's sum through shared memory"),
            hop=_NONE,
            far_hop=_NONE,
            share=Constant(1.0, "all"),
        ),
    ),
)
"""A thread of a CPU. Plans take from it only how steps of different sizes compare: how long one takes is measured."""
GPUS: Mapping[str, Processor] = {"H200": H200, "H100": H100}
"""By name."""
