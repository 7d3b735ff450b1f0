"""``saemill sweep``: many SAEs trained in one pass over the activations, compared on held-out rows, told on one page.

Each SAE lies where ``saemill train`` would have written it, so what is there already is not trained again.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from flows.addresses import Addresses, addresses, sweep_address
from flows.config import PipelineConfig
from flows.pipeline import Call, run_pipeline
from flows.resolve import resolved
from flows.stages import has_lake, score_stage, train_stage
from tasks.errors import InputError
from tasks.progress import Listener
from tasks.storage.artifacts import read_json, read_manifest, relative, require_manifest
from tasks.train.sweep.config import SweepConfig

if TYPE_CHECKING:
    from tasks.report.sweep import AboutSweep
    from tasks.train.sweep.members import Member


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Where the page of a sweep is, and what it tells."""

    activations: str
    report: str
    saes: list[dict[str, Any]]
    """The rows of table.parquet."""
    stability: list[dict[str, Any]]
    """The rows of stability.parquet."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep whose inputs are there."""

    config: PipelineConfig
    members: "Sequence[Member]"
    saes: tuple[str, ...]
    """Addresses, by member."""
    at: Addresses
    """Of ``config``; only tokens and activations matter."""

    @property
    def report(self) -> str:
        """URI of the comparison."""
        return sweep_address(self.config, self.saes)


Step = Callable[[Sweep, Listener], None]
"""What comes after the harvest: ``train``, then ``compare``."""


def run_sweep(config: PipelineConfig, call: Call, do: Callable[[Step, Sweep], None]) -> SweepResult:
    """Harvest what is lacking, train the sweep's SAEs, compare them, and write the page; what is finished is left.

    As stages are given to ``call``, so are the two steps after them to ``do``.

    Raises:
        InputError: the sweep or other settings are not fit, or no SAE has a finite loss.
        ArtifactError: a stored result is damaged.
        SaemillError: workers were lost more often than train.max_failures.
    """
    from tasks.train.sweep.members import members

    if has_lake(config):
        raise InputError(
            "A sweep's SAEs read the same rows, so these must stay: set harvest.keep to all, and leave train.window_tokens "
            "empty."
        )
    given, config = config, resolved(config)
    found = members(config.sweep, config.sae, config.train)
    run_pipeline(given, call, until="harvest")  # as given: it tells what was left to it
    saes = tuple(addresses(run_of(config, member)).sae for member in found)
    sweep = Sweep(config, found, saes, addresses(config))
    do(train, sweep)
    do(compare, sweep)
    return result(sweep)


def train(sweep: Sweep, listener: Listener) -> None:
    """Train those SAEs that are not there, unless the sweep is finished."""
    from tasks.activations.hygiene import warn
    from tasks.train.sweep.ray_sweep import Target, train_sweep

    if read_manifest(sweep.report) is not None:
        return
    for hook in sweep.config.roles.all:
        warn(sweep.at.activations, hook)
    in_common = train_stage(sweep.config).settings
    targets = [
        Target(member.label, train_stage(run_of(sweep.config, member)).settings, sae)
        for member, sae in zip(sweep.members, sweep.saes, strict=True)
    ]
    train_sweep(in_common, targets, sweep.at.activations, sweep.report, listener, tokens=sweep.at.tokens)


def compare(sweep: Sweep, listener: Listener) -> None:
    """Measure the finished SAEs on held-out rows, match those that differ in their seed only, and write the page."""
    import pyarrow as pa

    from tasks.report.sweep import render_sweep
    from tasks.score.ray_score import compare

    if read_manifest(sweep.report) is not None:
        return
    done = [i for i, sae in enumerate(sweep.saes) if read_manifest(sae) is not None]
    if not done:
        raise InputError(
            "No SAE of the sweep has a finite loss; what was found of each is told above. Lower sweep.lr or train.lr."
        )
    pairs = _pairs(sweep, done)
    first = replace(score_stage(sweep.config), activations=sweep.at.activations, sae=sweep.saes[done[0]]).job()
    jobs = [replace(first, sae=sweep.saes[i]) for i in done]
    figures, matches = compare(jobs, sweep.config.ray, [(sweep.saes[a], sweep.saes[b]) for a, b in pairs], listener)
    held_out = {i: asdict(found) for i, found in zip(done, figures, strict=True)}
    rows = [_row(sweep, i, held_out.get(i)) for i in range(len(sweep.saes))]
    seeds = [{**_pair(sweep, a, b), **asdict(found)} for (a, b), found in zip(pairs, matches, strict=True)]
    table, stability = pa.Table.from_pylist(rows, pa.schema(TABLE)), pa.Table.from_pylist(seeds, pa.schema(STABILITY))
    render_sweep(about_sweep(sweep.config), sweep.at.activations, table, stability, sweep.report)


def run_of(config: PipelineConfig, member: "Member") -> PipelineConfig:
    """The settings of a run of its own that trains one SAE of the sweep."""
    return config.model_copy(update={"sae": member.sae, "train": member.train, "sweep": SweepConfig()})


def about_sweep(config: PipelineConfig) -> "AboutSweep":
    """What the page tells of a sweep beside its tables."""
    from tasks.report.sweep import AboutSweep

    own = config.activations.source
    return AboutSweep(
        name=config.name,
        source=(own or config.model.label).rstrip("/").rpartition("/")[2],
        hooks=() if own is not None else config.roles.all,
        train_tokens=config.train.tokens,
        shown=config.model_dump(mode="json"),
    )


def result(sweep: Sweep) -> SweepResult:
    """What a finished sweep says.

    Raises:
        ArtifactError: it is not finished.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.report.sweep import STABILITY, TABLE
    from tasks.storage.objects import open_store

    require_manifest(sweep.report)
    store = open_store(sweep.report)
    rows, seeds = (pq.read_table(pa.BufferReader(store.get(key))).to_pylist() for key in (TABLE, STABILITY))
    return SweepResult(sweep.at.activations, sweep.report, rows, seeds)


TABLE = [
    ("member", "string"),
    ("arch", "string"),
    ("d_sae", "int64"),
    ("k", "int64"),
    ("l1_coefficient", "float64"),
    ("lr", "float64"),
    ("seed", "int64"),
    ("state", "string"),
    ("fvu", "float64"),
    ("l0", "float64"),
    ("dead_fraction", "float64"),
    ("training_seconds", "float64"),
    ("sae", "string"),
]
"""Columns of table.parquet and their types."""
STABILITY = [("member", "string"), ("seed_a", "int64"), ("seed_b", "int64"), ("shared", "float64"), ("mmcs", "float64")]
"""The same of stability.parquet."""


def _row(sweep: Sweep, index: int, figures: dict[str, Any] | None) -> dict[str, Any]:
    member, sae = sweep.members[index], sweep.saes[index]
    row = {"member": member.label, **member.values, "sae": relative(sae, sweep.report)}
    if figures is None:
        return row | {"state": "diverged"}
    training, timing = require_manifest(sae)["training"], read_json(sae, "run.json") or {}
    seconds = {"training_seconds": timing.get("training_seconds")}
    return row | {"state": "finished", "lr": training["lr"]} | figures | seconds


def _pairs(sweep: Sweep, done: Sequence[int]) -> list[tuple[int, int]]:
    """Finished members that differ in nothing but the seed."""
    return [(a, b) for a, b in combinations(done, 2) if _but_seed(sweep, a) == _but_seed(sweep, b)]


def _but_seed(sweep: Sweep, index: int) -> dict[str, Any]:
    return {name: value for name, value in sweep.members[index].values.items() if name != "seed"}


def _pair(sweep: Sweep, a: int, b: int) -> dict[str, Any]:
    seeds = {"seed_a": sweep.members[a].values["seed"], "seed_b": sweep.members[b].values["seed"]}
    return {"member": sweep.members[a].but_seed, **seeds}


def described(result: SweepResult) -> str:
    """The table as text, and the page's path last."""
    heads = ("member", "fvu", "l0", "dead", "seconds")
    cells = [heads, *(_cells(row) for row in result.saes)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return "\n".join([*(line.rstrip() for line in lines), f"{result.report}/index.html"])


def _cells(row: dict[str, Any]) -> tuple[str, str, str, str, str]:
    if row["state"] != "finished":
        return (row["member"], "not finite", "-", "-", "-")
    fvu = "-" if row["fvu"] is None else f"{row['fvu']:.4f}"
    seconds = "-" if row["training_seconds"] is None else f"{row['training_seconds']:.0f}"
    return (row["member"], fvu, f"{row['l0']:.1f}", f"{row['dead_fraction']:.1%}", seconds)
