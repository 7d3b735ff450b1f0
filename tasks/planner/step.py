"""A training step of TopK as a table of terms: what each computes, moves through memory, and sends; and how long that takes.

Terms follow each other without overlap, as the code has them. ``a`` workers share the rows of a batch and hold the same
latents, ``b`` parts of the latents see the same rows. No latent is dead, so AuxK takes no part.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Literal

from typing_extensions import override

from tasks.planner.processors import Processor

Group = Literal["rows", "latents"]
"""Workers that hold the same latents and have other rows, or see the same rows and hold other latents."""
BFLOAT16, FLOAT, INT32, FLOAT64, INT64 = 2, 4, 4, 8, 8
"""Bytes."""
TOLD = FLOAT64 + INT64
"""Beside gradients on rows: their squared error, and how many latents are active."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What is trained, with how many rows a step; rows are stored in bfloat16."""

    d_in: int
    d_sae: int
    k: int = 64
    batch: int = 8192
    """Rows per step, over all workers."""


@dataclass(frozen=True, slots=True)
class MeshShape:
    """``a`` workers that share the rows, times ``b`` parts of the latents."""

    a: int
    b: int
    near: Group = "latents"
    """Whose ranks follow each other, and so are on the same nodes; ``TorchMesh`` has it so."""

    @property
    def workers(self) -> int:
        """All of them."""
        return self.a * self.b

    @override
    def __str__(self) -> str:
        return f"{self.a} x {self.b}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepForm:
    """Who does what, of the workers that hold the same latents and have encoded their own rows."""

    name: str
    shared: bool
    """Each decodes its own rows, and updates its part of the latents over all rows; else all do all of both."""
    common: bool = False
    """Weights and moments lie in memory that they have in common, and need not be sent."""


SHARED_OUT = StepForm(name="shared out", shared=True)
IN_COMMON = StepForm(name="shared out, in common memory", shared=True, common=True)
"""As on CPUs of one machine."""
REPEATED = StepForm(name="repeated", shared=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """How often memory is gone through."""

    name: str
    pull_passes: int
    """Reads of each active latent's decoder row, beside that for decoding, for the gradient on its value."""
    parameter_bytes: int
    """Moved per parameter by gradient, constraint and Adam."""
    writes_gradients: bool
    """Whether a gradient is written to memory for Adam to read."""
    candidate_bytes: int
    """Moved per candidate of the selection, beside reading each pre-activation once."""
    copies: bool = False
    """Whether a worker that updates all its latents writes them in bfloat16 too, which the next step reads."""

    def writes_copies(self, mesh: "MeshShape", form: "StepForm") -> bool:
        """Whether an update leaves weights in bfloat16 for the next step."""
        return self.copies and not (form.shared and mesh.a > 1)


COMPILED = Kernels(name="compiled", pull_passes=0, parameter_bytes=24, writes_gradients=False, candidate_bytes=0)
"""As on CPUs: Adam reads and writes a weight and two moments, and decoder row and gradient stay in cache meanwhile."""
TORCH = Kernels(name="plain torch", pull_passes=1, parameter_bytes=60, writes_gradients=True, candidate_bytes=40)
"""As on GPUs without Triton (tasks/sae/kernels/torch_reference.py). Per parameter: the gradient is written (4); Adam reads
it too (28); on decoder rows, which are half, its product with them (8), the part along them dropped (12), their norm (4) and
division by it (8); the gradient's squares are written and summed (12)."""
TRITON = replace(COMPILED, name="Triton", copies=True)
"""As on GPUs (tasks/sae/kernels/triton)."""


@dataclass(frozen=True, slots=True)
class Message:
    """A collective."""

    kind: Literal["gather", "sum", "scattered sum"]
    among: Group
    size: float
    """Bytes of one worker's tensor."""

    def workers(self, mesh: MeshShape) -> int:
        """How many take part."""
        return mesh.a if self.among == "rows" else mesh.b

    def sent_bytes(self, mesh: MeshShape) -> float:
        """By one worker in a ring: its tensor once to each of the others, or a share of the sum and of its result."""
        g = self.workers(mesh)
        if self.kind == "gather":
            return self.size * (g - 1)
        return (2 if self.kind == "sum" else 1) * self.size * (g - 1) / g

    def seconds(self, mesh: MeshShape, machine: Processor) -> float:
        """Of the collective."""
        g = self.workers(mesh)
        if g == 1:
            return 0.0
        room = machine.node if self.among == mesh.near else max(1, machine.node * g // mesh.workers)
        on_node = min(g, room)
        return machine.ring(self.sent_bytes(mesh), on_node, ceil(g / on_node), 2 if self.kind == "sum" else 1)


@dataclass(frozen=True, slots=True)
class Term:
    """One worker's share of a part of the step."""

    name: str
    flop: float = 0.0
    memory_bytes: float = 0.0
    messages: tuple[Message, ...] = ()

    def seconds(self, mesh: MeshShape, machine: Processor) -> float:
        """Of the work, which computes and moves at once, and then of the exchanges."""
        works = max(self.flop / machine.product, self.memory_bytes / machine.memory)
        return works + self.exchanging(mesh, machine)

    def exchanging(self, mesh: MeshShape, machine: Processor) -> float:
        """Of those seconds, the exchanges."""
        return sum(message.seconds(mesh, machine) for message in self.messages)


# Bytes moved, counted in the code: per feature of a row when it is scaled (to float32, less the mean, times the scale),
# when it is compared with what it decodes to (target, residual, gradient, square), when it is received (laid out by worker);
# per entry when it is compacted and sorted by latent; per rival of a row's k largest.
_SCALE, _COMPARE, _LAY_OUT, _ENTRY, _RIVAL = 18, 40, 2, 100, 36


@dataclass(frozen=True, slots=True)
class Own:
    """What one worker has of a step."""

    rows: float
    """Rows that it encodes."""
    latents: float
    """Latents that it holds."""
    entries: float
    """Active latents among those it holds, of all rows."""
    share: float
    """Of all rows to decode, and of its latents to update."""
    room: float
    """Entries that the rows of one worker have at most; all send as many."""


def own(size: Size, mesh: MeshShape, form: StepForm, room: float | None = None) -> Own:
    """An even share; ``room`` is the same unless given."""
    entries = size.batch * size.k / mesh.b
    share = 1 / mesh.a if form.shared else 1.0
    return Own(size.batch / mesh.a, size.d_sae / mesh.b, entries, share, entries / mesh.a if room is None else room)


def terms(size: Size, mesh: MeshShape, form: StepForm, kernels: Kernels, room: float | None = None) -> list[Term]:
    """The step of one worker; ``room``: see ``Own``."""
    mine = own(size, mesh, form, room)
    return [
        _rows(size, mesh, form, mine),
        *_chosen(size, mesh, form, kernels, mine),
        *_rebuilt(size, mesh, form, kernels, mine),
        *_updated(size, mesh, form, kernels, mine),
    ]


def _rows(size: Size, mesh: MeshShape, form: StepForm, mine: Own) -> Term:
    """Rows are gathered and scaled, then compared with what they decode to."""
    others = size.batch * (mesh.a > 1)
    received = _LAY_OUT * others * (BFLOAT16 + FLOAT * form.shared)
    moved = _SCALE * (mine.rows + others) + _COMPARE * size.batch * mine.share + received
    messages = (
        Message("gather", "latents", mine.rows / mesh.b * size.d_in * BFLOAT16),
        Message("gather", "rows", mine.rows * size.d_in * BFLOAT16),
    )
    return Term("rows", memory_bytes=moved * size.d_in, messages=messages)


def _chosen(size: Size, mesh: MeshShape, form: StepForm, kernels: Kernels, mine: Own) -> Iterator[Term]:
    """Pre-activations, and of all parts of the latents the k largest of each row."""
    pre_acts, weights = mine.rows * mine.latents, size.d_in * mine.latents
    yield Term("cast", memory_bytes=(FLOAT + BFLOAT16) * weights * (not kernels.writes_copies(mesh, form)))
    yield Term("encode", flop=2 * size.d_in * pre_acts, memory_bytes=BFLOAT16 * (weights + pre_acts))
    yield Term(
        "select",
        memory_bytes=BFLOAT16 * pre_acts + kernels.candidate_bytes * mine.rows * sqrt(size.k * mine.latents),
        messages=(Message("gather", "latents", INT64),),  # how many are dead, with the rows
    )
    yield Term(
        "choose among parts",
        memory_bytes=_RIVAL * mine.rows * size.k * mesh.b * (mesh.b > 1),
        messages=(Message("gather", "latents", mine.rows * size.k * BFLOAT16),),
    )
    yield Term(
        "entries",
        memory_bytes=_ENTRY * mine.entries,
        messages=(Message("gather", "rows", mine.rows * INT64), Message("gather", "rows", mine.room * (FLOAT + INT32))),
    )


def _rebuilt(size: Size, mesh: MeshShape, form: StepForm, kernels: Kernels, mine: Own) -> Iterator[Term]:
    """Rows are decoded, among parts as a sum, and compared."""
    decoded = size.batch * mine.share
    latents = mine.entries * mine.share * (BFLOAT16 if kernels.writes_copies(mesh, form) else FLOAT)
    summed = 2 * decoded * (mesh.b > 1) * FLOAT  # written and read
    yield Term(
        "decode",
        memory_bytes=size.d_in * (latents + summed),
        messages=(
            Message("scattered sum", "latents", decoded * size.d_in * FLOAT),
            Message("gather", "latents", decoded / mesh.b * size.d_in * FLOAT + TOLD),
        ),
    )
    if form.shared:
        told = mine.rows * size.d_in * FLOAT + TOLD
        yield Term("gradients of rows", messages=(Message("gather", "rows", told),))
    yield Term("sums", messages=(Message("sum", "latents", FLOAT),))  # of the gradient's norm


def _updated(size: Size, mesh: MeshShape, form: StepForm, kernels: Kernels, mine: Own) -> Iterator[Term]:
    """Gradients of latents, Adam, and the new weights."""
    weights = size.d_in * mine.latents * mine.share  # of the encoder, and as many of the decoder
    passes = (2 + kernels.pull_passes) * mine.entries * mine.share
    yield Term("gradients of latents", memory_bytes=FLOAT * size.d_in * passes)
    updated = kernels.parameter_bytes + BFLOAT16 * kernels.writes_copies(mesh, form)
    yield Term("Adam", memory_bytes=updated * 2 * weights)
    if form.shared:
        norm = Message("sum", "rows", FLOAT)
        shown = () if form.common else (weights * FLOAT, weights * FLOAT, mine.latents * mine.share * FLOAT)
        yield Term("new weights", messages=(norm, *(Message("gather", "rows", part) for part in shown)))


def sent_bytes(step: Sequence[Term], mesh: MeshShape) -> float:
    """By one worker, as ``Traffic`` counts them."""
    return sum(message.sent_bytes(mesh) for term in step for message in term.messages)


def seconds(step: Sequence[Term], mesh: MeshShape, machine: Processor) -> float:
    """Of a step."""
    return machine.overhead + sum(term.seconds(mesh, machine) for term in step)


def ideal_seconds(size: Size, mesh: MeshShape, machine: Processor) -> float:
    """Of the encoder's product alone, spread over all workers."""
    return 2 * size.batch * size.d_in * size.d_sae / mesh.workers / machine.product


# Bytes held at once per feature of a row: raw 2; scaled, target, decoded, residual, its gradient and a temporary 4 each. Of
# those, raw and scaled rows and gradients are of the whole batch, received and laid out, also where a worker decodes only
# its own.
_OWN_ROW, _ANY_ROW = 26, 16


def memory_bytes(size: Size, mesh: MeshShape, form: StepForm, kernels: Kernels) -> float:
    """Of one worker: weights, two moments and gradients in float32, pre-activations in bfloat16, rows and entries."""
    mine = own(size, mesh, form)
    parameters = 2 * size.d_in * mine.latents
    state = 4 * FLOAT * parameters
    written = 1.5 * FLOAT * parameters * mine.share * kernels.writes_gradients  # and the squares of one half
    cast = BFLOAT16 * parameters / 2  # over by the time that gradients are written
    copies = BFLOAT16 * parameters * kernels.writes_copies(mesh, form)
    whole = _ANY_ROW if form.shared else _OWN_ROW
    rows = size.d_in * (whole * size.batch + (_OWN_ROW - whole) * mine.rows)
    entries = _ENTRY / 2 * mine.entries + _RIVAL / 2 * mine.rows * size.k * mesh.b * (mesh.b > 1)
    return state + (copies or max(written, cast)) + BFLOAT16 * mine.rows * mine.latents + rows + entries
