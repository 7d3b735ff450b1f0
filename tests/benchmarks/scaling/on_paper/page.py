"""What training costs on 8, 64 and 512 GPUs, on paper: tokens per second, memory, and which mesh of workers wins.

    python -m tests.benchmarks.scaling.on_paper.page [--gpu H200|H100] [--kernels triton|torch]
    python -m tests.benchmarks.scaling.on_paper.page --markdown > tests/benchmarks/SCALING.md

TopK with k 64, plain SAEs, no latent dead. ``tasks.planner`` has the terms of a step (``step.py``) and the constants
(``processors.py``).
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace

from tasks.planner.processors import GPUS, H100, H200, Constant, Processor
from tasks.planner.step import (
    COMPILED,
    IN_COMMON,
    SHARED_OUT,
    Kernels,
    MeshShape,
    Size,
    sent_bytes,
    terms,
)
from tests.benchmarks.scaling.on_paper.machines import LINKS, MEASURED, ON_A_CARD, PAIR, constants, cpu
from tests.benchmarks.scaling.on_paper.meshes import (
    FORMS,
    KERNELS,
    Setting,
    faster,
    gains,
    losses,
    parts,
    regions,
    row,
    sizes,
    table,
    winners,
)

CHECKED = Size(d_in=576, d_sae=9216, k=32, batch=2048)
"""What tests/benchmarks/scaling/workers.py trains."""
PAIRS = {"2x1": MeshShape(2, 1), "1x2": MeshShape(1, 2)}
"""Its meshes."""
FORM = {"shared": IN_COMMON, "sockets": SHARED_OUT}
"""What workers do with these links."""
SHOWN = Size(d_in=4096, d_sae=1_048_576, batch=65_536), 64
"""Whose terms are shown."""


def predicted(pair: Mapping[str, Constant], link: str) -> dict[str, float]:
    """Tokens per second of two workers over those of one, on each mesh of tests/benchmarks/scaling/workers.py."""
    one, two = (Setting(cpu(pair, link, alone), FORM[link], COMPILED) for alone in (True, False))
    return {name: one.seconds(CHECKED, MeshShape(1, 1)) / two.seconds(CHECKED, mesh) for name, mesh in PAIRS.items()}


def check(pair: Mapping[str, Constant]) -> Iterator[str]:
    """The model against two workers on one machine's CPU, and the constants that it has for them."""
    rows = []
    for link in LINKS:
        for name, ratio in predicted(pair, link).items():
            mesh = PAIRS[name]
            rows.append(
                {
                    "mesh": name,
                    "through": {"shared": "shared memory", "sockets": "sockets"}[link],
                    "MB sent a step": f"{sent_bytes(terms(CHECKED, mesh, FORM[link], COMPILED), mesh) / 1e6:.2f}",
                    "speed over one worker's, predicted": f"{ratio:.2f}",
                    "measured": f"{MEASURED[link, name]:.2f}",
                    "predicted over measured": f"{ratio / MEASURED[link, name]:.2f}",
                }
            )
    yield from table(rows)
    yield from table([{"constant": name, "": f"{value:.3g}", "from": value.source} for name, value in pair.items()])


ON_ONE = {768: Size(d_in=768, d_sae=24_576, k=32), 4096: Size(d_in=4096, d_sae=65_536, k=64, batch=16_384)}
"""What was trained on one card, by its d_in."""


def on_a_card() -> Iterator[tuple[str, Size, float, Constant]]:
    """Kernels, what was trained, seconds of a step by the table, and as measured."""
    for (kernels, d_in), seconds in ON_A_CARD.items():
        by_name = {one.name: one for one in KERNELS.values()}
        yield (
            kernels,
            ON_ONE[d_in],
            Setting(H200, SHARED_OUT, by_name[kernels]).seconds(ON_ONE[d_in], MeshShape(1, 1)),
            seconds,
        )


def check_on_a_card() -> Iterator[str]:
    """The model against one card."""
    rows = [
        {
            "kernels": kernels,
            "d_in": f"{size.d_in:,}",
            "d_sae": f"{size.d_sae:,}",
            "k": str(size.k),
            "rows": f"{size.batch:,}",
            "ms a step, predicted": f"{by_table * 1e3:.1f}",
            "measured": f"{measured * 1e3:.1f}",
            "predicted over measured": f"{by_table / measured:.2f}",
            "from": measured.source,
        }
        for kernels, size, by_table, measured in on_a_card()
    ]
    yield from table(rows)


def about_constants(machine: Processor) -> Iterator[str]:
    """What the model takes as given, and from where."""
    yield from table(
        [{"constant": what, machine.name: f"{value:.4g}", "from": source} for what, value, source in constants(machine)]
    )


def page(machine: Processor, kernels: Kernels, pair: Mapping[str, Constant]) -> Iterator[str]:
    """SCALING.md, line by line or some lines at a time."""
    shared, repeated = (Setting(machine, form, kernels) for form in FORMS)
    size, workers = SHOWN
    yield from (_INTRODUCTION.format(gpu=machine.name, kernels=kernels.name), "## Where each mesh wins", "")
    near = replace(shared, near="rows")
    yield from (*regions(shared), "", *table(winners(shared)))
    yield _RULE.format(as_it_is=faster(shared, repeated), near=faster(near, repeated))
    yield from table(list(losses((shared, repeated))))
    yield from ("## Tokens per second and memory", "", _TABLE, *smaller(replace(shared, machine=H100), shared))
    yield from table([row(size, workers, shared, repeated) for size, workers in sizes()])
    yield from ("## Where the time goes", "", _PARTS.format(**_said(size, workers)))
    yield from table(parts(size, workers, (shared, repeated)))
    yield from (_HELPS, *table(list(gains(shared))))
    yield from ("## Constants", "", *about_constants(machine))
    excess = [ratio / MEASURED[link, name] - 1 for link in LINKS for name, ratio in predicted(pair, link).items()]
    yield from ("## Checked", "", _CHECKED.format(low=min(excess), high=max(excess)), *check(pair))
    yield from (_CHECKED_ON_A_CARD, *check_on_a_card())
    yield _LEFT_OUT


def smaller(small: Setting, large: Setting) -> Iterator[str]:
    """One machine beside a larger one."""
    ratios, least = [], 0
    for size, workers in sizes():
        meshes_of = [setting.best(size, workers) for setting in (small, large)]
        if meshes_of[0] is not None and meshes_of[1] is not None:
            ratios.append(large.seconds(size, meshes_of[1]) / small.seconds(size, meshes_of[0]))
        least += meshes_of[1] is not None
    yield (
        f"On {small.machine.name}s {len(ratios)} sizes fit of the {least} that fit on {large.machine.name}s, at "
        f"{min(ratios):.2f} to {max(ratios):.2f} of their speed (`--gpu {small.machine.name}`)."
    )
    yield ""


def _said(size: Size, workers: int) -> dict[str, str]:
    return {
        "batch": f"{size.batch:,}",
        "workers": str(workers),
        "d_in": f"{size.d_in:,}",
        "d_sae": f"{size.d_sae:,}",
    }


_INTRODUCTION = """\
# Scaling on paper

    .venv/bin/python -m tests.benchmarks.scaling.on_paper.page --markdown > tests/benchmarks/SCALING.md

Computed, not run: what training a TopK SAE with k 64 takes on 8, 64 and 512 {gpu} GPUs, by the table of a step's terms in
[step.py](../../tasks/planner/step.py) and the constants below. A mesh a x b has a workers that share the rows of a batch and
b parts of the latents: `train.workers` is a b, `train.latent_shards` is b. Kernels are those that GPUs have ({kernels}), and
nothing overlaps, because in the code nothing does. No worker waits for a slower one, so these are upper bounds.

The step is `shared out`: of the workers that hold the same latents each decodes its own rows and updates its part of the
latents. In `repeated`, the step before that, each decoded all rows and updated all latents.
"""
_RULE = """\
The rule behind it: sharing rows sends each worker 8 d_in d_sae / b bytes of new weights and 6 d_in bytes of every row of the
batch; sharing latents sends it 10 d_in bytes, and 2 k b of candidates, of each of its batch / a rows. So rows are shared
where d_sae is not above the rows of a step, latents where it is. On many nodes it is both: the candidates of all parts, and
longer rings, cost more than they save.

Against `repeated`, `shared out` is {as_it_is}.
It loses where workers with the same latents are on different nodes: there a weight takes longer to fetch than to compute
once more. `TorchMesh` has the parts of the latents on a node. With the same latents on a node instead (another order of
ranks), `shared out` is {near}.

Always sharing the same way makes steps so many times as long as with the best mesh:
"""
_TABLE = """\
The fastest mesh that fits. The ideal is the encoder's product alone, at the speed that products reach, spread evenly. GB are
float32 weights, two moments and gradients, rows, pre-activations and entries; where nothing fits, the least any mesh needs.
Tokens per second of a batch of 8,192 on 512 GPUs say how little 16 rows each are: use a larger batch, or fewer GPUs.
"""
_PARTS = """\
Milliseconds of a step, in brackets those in exchanges: d_in {d_in}, d_sae {d_sae}, {batch} rows, {workers} GPUs.
"""
_HELPS = """\
What would help: times as fast as now, each with its best mesh, median over widths.
"""
_CHECKED = """\
Bytes: `tests/train/test_scaling_on_paper.py` lets processes take steps on five meshes, and what each sent is what the table
says, to the byte. Time: the same table with the constants of one thread of a CPU, against two workers of one thread each
([workers.py](scaling/workers.py): d_in 576, d_sae 9216, k 32, batches of 2,048; medians of 15 rounds, of 5 through sockets,
on 22 November 2026). Workers that share memory have the weights in common, and send none. The table puts meshes in the order
that was measured, and is {low:.0%} to {high:.0%} too fast: it lets no worker wait for another, which most of the difference
is taken to be. Nothing that crosses nodes is checked so.
"""
_CHECKED_ON_A_CARD = """\
One GPU, whole steps. The Triton kernels themselves have not been timed (`tests.benchmarks.gpu` does): what was, is a sketch
of the same plan. Plain torch is slower than the table has it, since its sparse products do not reach the memory's speed, and
it launches more than the sketch does.
"""
_LEFT_OUT = """\
## Left out

Reading the rows; checkpoints; AuxK (while latents are dead, up to 2 k more entries per row); what batchtopk sends instead of
candidates (its entries, up to a quarter more of them, and their counts); workers waiting for slower ones; other jobs on the
network; trees and sums in the switches, which are faster than rings for small messages. `train.workers` must divide
`train.lanes`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", choices=GPUS, default="H200")
    parser.add_argument("--kernels", choices=KERNELS, default="triton")
    parser.add_argument("--markdown", action="store_true", help="the whole page, not the large table alone")
    for name in PAIR:
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help="for the check, in place of machines.py's")
    options = parser.parse_args()
    machine, kernels = GPUS[options.gpu], KERNELS[options.kernels]
    given = {name: Constant(value, "given") for name in PAIR if (value := getattr(options, name)) is not None}
    if options.markdown:
        print("\n".join(page(machine, kernels, PAIR | given)), end="")
        return
    settings = [Setting(machine, form, kernels) for form in FORMS]
    print("\n".join(table([row(size, workers, *settings) for size, workers in sizes()])))


if __name__ == "__main__":
    main()
