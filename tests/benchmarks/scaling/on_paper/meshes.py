"""Which mesh of workers trains fastest, by the terms of a step, over many sizes; rows of Markdown tables that say so."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tasks.planner.processors import Constant, Processor
from tasks.planner.step import (
    REPEATED,
    SHARED_OUT,
    TORCH,
    TRITON,
    Group,
    Kernels,
    MeshShape,
    Size,
    StepForm,
    Term,
    ideal_seconds,
    memory_bytes,
    seconds,
    terms,
)

WORKERS = (8, 64, 512)
D_IN = (4096, 16384)
D_SAE = (65_536, 262_144, 1_048_576, 4_194_304, 16_777_216)
BATCH = (8192, 65_536)
FORMS = (SHARED_OUT, REPEATED)
KERNELS = {"triton": TRITON, "torch": TORCH}


@dataclass(frozen=True, slots=True)
class Setting:
    """What a table is for."""

    machine: Processor
    form: StepForm
    kernels: Kernels
    near: Group = "latents"
    """Whose ranks follow each other."""
    rows_ahead: bool = False
    """Whether rows are exchanged during the encoder's product of the step before, as far as that lasts."""

    def seconds(self, size: Size, mesh: MeshShape) -> float:
        """Of a step."""
        step = terms(size, mesh, self.form, self.kernels)
        taken = seconds(step, mesh, self.machine)
        return taken - self._hidden({term.name: term for term in step}, mesh) if self.rows_ahead else taken

    def _hidden(self, step: Mapping[str, Term], mesh: MeshShape) -> float:
        """Seconds of the rows' exchange that pass during the product."""
        return min(step["rows"].exchanging(mesh, self.machine), step["encode"].seconds(mesh, self.machine))

    def memory(self, size: Size, mesh: MeshShape) -> float:
        """Bytes of a worker."""
        return memory_bytes(size, mesh, self.form, self.kernels)

    def fits(self, size: Size, mesh: MeshShape) -> bool:
        return self.memory(size, mesh) <= self.machine.capacity

    def best(self, size: Size, workers: int) -> MeshShape | None:
        """The fastest mesh that fits; None where none does."""
        fitting = [mesh for mesh in meshes(workers, self.near) if self.fits(size, mesh)]
        return min(fitting, key=lambda mesh: self.seconds(size, mesh), default=None)


def meshes(workers: int, near: Group = "latents") -> list[MeshShape]:
    """All of them, in powers of two."""
    return [MeshShape(workers // b, b, near) for b in (2**i for i in range(workers.bit_length())) if b <= workers]


def sizes() -> Iterator[tuple[Size, int]]:
    """All of the table, with the number of GPUs."""
    for batch in BATCH:
        for workers in WORKERS:
            for d_in in D_IN:
                for d_sae in D_SAE:
                    yield Size(d_in=d_in, d_sae=d_sae, batch=batch), workers


def row(size: Size, workers: int, setting: Setting, other: Setting) -> dict[str, str]:
    """One row of the large table."""
    named = {
        "batch": f"{size.batch:,}",
        "GPUs": str(workers),
        "d_in": f"{size.d_in:,}",
        "d_sae": f"{size.d_sae:,}",
    }
    theirs = {f"{other.form.name}: {head}": cell for head, cell in _found(size, workers, other).items()}
    return named | _found(size, workers, setting) | theirs


def _found(size: Size, workers: int, setting: Setting) -> dict[str, str]:
    mesh = setting.best(size, workers)
    if mesh is None:
        least = min(setting.memory(size, mesh) for mesh in meshes(workers))
        return {"mesh": "does not fit", "tokens/s": "", "of the ideal": "", "GB per GPU": f"{least / 1e9:,.0f}"}
    taken = setting.seconds(size, mesh)
    return {
        "mesh": str(mesh),
        "tokens/s": f"{size.batch / taken:,.0f}",
        "of the ideal": f"{ideal_seconds(size, mesh, setting.machine) / taken:.1%}",
        "GB per GPU": f"{setting.memory(size, mesh) / 1e9:,.0f}",
    }


def table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """In Markdown."""
    yield "| " + " | ".join(rows[0]) + " |"
    yield "|" + " --- |" * len(rows[0])
    yield from ("| " + " | ".join(one.values()) + " |" for one in rows)
    yield ""


def winners(setting: Setting) -> list[dict[str, str]]:
    """The best mesh of each size."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for size, workers in sizes():
        place = (f"{size.batch:,}", str(workers), f"{size.d_in:,}")
        mesh = setting.best(size, workers)
        found.setdefault(place, {})[f"d_sae {size.d_sae:,}"] = "-" if mesh is None else str(mesh)
    return [dict(zip(("batch", "GPUs", "d_in"), place, strict=True)) | cells for place, cells in found.items()]


def regions(setting: Setting) -> Iterator[str]:
    """Where each kind of mesh wins, in sentences."""
    won: dict[str, dict[int, list[Size]]] = {kind: {n: [] for n in WORKERS} for kind in _KINDS}
    for size, workers in sizes():
        won[_kind(setting.best(size, workers))][workers].append(size)
    for kind, about in _KINDS.items():
        counts = [f"{len(found)} at {n} GPUs" for n, found in won[kind].items() if found]
        n_all = sum(len(found) for found in won[kind].values())
        yield f"- {about}: {n_all} of {len(list(sizes()))} sizes" + (f" ({', '.join(counts)})." if counts else ".")


_KINDS = {
    "rows": "rows alone (N x 1)",
    "latents": "latents alone (1 x N)",
    "both": "both",
    "none": "nothing fits",
}


def _kind(mesh: MeshShape | None) -> str:
    if mesh is None:
        return "none"
    return "rows" if mesh.b == 1 else "latents" if mesh.a == 1 else "both"


def losses(settings: Iterable[Setting]) -> Iterator[dict[str, str]]:
    """Times as long as with the best mesh that a step takes with one choice everywhere, over the sizes that fit."""
    for setting in settings:
        for kind in ("rows", "latents"):
            found = []
            for size, workers in sizes():
                mesh, best = MeshShape(workers, 1) if kind == "rows" else MeshShape(1, workers), setting.best(size, workers)
                if best is not None and setting.fits(size, mesh):
                    found.append(setting.seconds(size, mesh) / setting.seconds(size, best))
            found.sort()
            yield {
                "form": setting.form.name,
                "always": _KINDS[kind],
                "sizes that fit": str(len(found)),
                "median": f"{found[len(found) // 2]:.2f}",
                "worst": f"{found[-1]:.1f}",
            }


def parts(size: Size, workers: int, settings: Iterable[Setting]) -> list[dict[str, str]]:
    """Milliseconds of each term, and of those in exchanges, on rows alone, latents alone and the best mesh."""
    columns: dict[str, dict[str, str]] = {}
    for setting in settings:
        best = setting.best(size, workers) or MeshShape(1, workers)
        for mesh in dict.fromkeys((MeshShape(workers, 1), best, MeshShape(1, workers))):
            columns[f"{setting.form.name}, {mesh}"] = _column(size, mesh, setting)
    names = dict.fromkeys(name for column in columns.values() for name in column)
    order = [name for name in names if name not in _LAST] + list(_LAST)
    return [{"ms": name} | {head: column.get(name, "") for head, column in columns.items()} for name in order]


def _column(size: Size, mesh: MeshShape, setting: Setting) -> dict[str, str]:
    step, machine = terms(size, mesh, setting.form, setting.kernels), setting.machine
    found = {term.name: (term.seconds(mesh, machine), term.exchanging(mesh, machine)) for term in step}
    found["host"] = (machine.overhead, 0.0)
    found["all"] = (sum(taken for taken, _ in found.values()), sum(sent for _, sent in found.values()))
    return {name: f"{1e3 * taken:,.1f}" + f" ({1e3 * sent:,.1f})" * (sent > 0) for name, (taken, sent) in found.items()}


_LAST = ("host", "all")


def faster(one: Setting, two: Setting) -> str:
    """How often one is faster than the other, both with their best mesh, and how much slower at worst."""
    ratios = [_gain(size, workers, two, one) for size, workers in sizes() if one.best(size, workers) is not None]
    wins, loses = (sum(wins) for wins in ([r > 1.001 for r in ratios], [r < 0.999 for r in ratios]))
    return (
        f"faster in {wins} of {len(ratios)} sizes (up to {max(ratios):.1f} times), slower in {loses} "
        f"(down to {min(ratios):.2f}), as fast in {len(ratios) - wins - loses}"
    )


def gains(setting: Setting) -> Iterator[dict[str, str]]:
    """Times as fast as now, over the sizes that fit, if one thing were other."""
    machine = setting.machine
    better = {
        "plain torch in place of Triton": replace(setting, kernels=TORCH),
        "the same latents, not the same rows, on a node": replace(setting, near="rows"),
        "memory twice as fast": replace(setting, machine=replace(machine, memory=_twice(machine.memory))),
        "links between nodes twice as fast": replace(setting, machine=replace(machine, between=_twice(machine.between))),
        "links within a node twice as fast": replace(setting, machine=replace(machine, inside=_twice(machine.inside))),
        "rows exchanged during the product of the step before": replace(setting, rows_ahead=True),
        "no launches and waits": replace(setting, machine=replace(machine, overhead=Constant(0.0, "if"))),
    }
    for name, other in better.items():
        cells = {"if there were": name}
        for batch in BATCH:
            for workers in WORKERS:
                found = sorted(_gain(size, n, setting, other) for size, n in sizes() if (size.batch, n) == (batch, workers))
                cells[f"{batch:,} rows, {workers} GPUs"] = f"{found[len(found) // 2]:.2f}"
        yield cells


def _twice(constant: Constant) -> Constant:
    return Constant(2 * constant, "if")


def _gain(size: Size, workers: int, setting: Setting, other: Setting) -> float:
    found = []
    for one in (setting, other):
        mesh = one.best(size, workers) or MeshShape(1, workers)
        found.append(one.seconds(size, mesh))
    return found[0] / found[1]
