"""How fast each stage is: measured by a probe, in earlier runs on the same storage, or taken from a named card."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log

from tasks.planner.accounts import Account, Keys
from tasks.planner.measured import Measured
from tasks.planner.needs import OF_THE_MODEL, Need, StageName, needs, step_seconds
from tasks.planner.processors import CPU, Constant, Processor
from tasks.planner.sizes import ModelSize, RunSize

RAY_S = Constant(6.0, "tasks/ray_config.py: about 6 s for a local cluster on a quiet machine")
REPORT_S = Constant(6.26 / 4608, "the demo's report on two slow cores, 27 November 2026: seconds per latent")
TEXT_S = Constant(5.23 / 299_776, "the demo's text on two slow cores, 27 November 2026: seconds per token")
ENCODE_S = Constant(1 / 0.5e9, "seconds per byte of rows that one thread encodes to Parquet and hashes, a GPU machine's CPU")


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Of one stage."""

    fixed: float
    """Seconds that it takes however little there is to do."""
    per_cost: float
    """Seconds for a unit of its cost (see ``Need``)."""
    source: str
    """Where the numbers are from, in words."""

    def seconds(self, cost: float) -> float:
        """For so much work."""
        return self.fixed + self.per_cost * cost


Speeds = Mapping[StageName, Speed]
"""Of the stages that something is known of."""


def of_probe(measured: Measured, size: RunSize) -> dict[StageName, Speed]:
    """What a probe of this configuration on this machine says of each stage.

    Of a text whose model's work could not be counted it says nothing of the stages that run that model.
    """
    processes = f"{measured.processes} process" + "es" * (measured.processes > 1)
    source = f"a probe of this machine with {processes}, {measured.seconds:.0f} s long and {_aged(measured.age)}"
    start, each = measured.start_seconds, _flop_of_one(measured)
    found: dict[StageName, Speed] = {
        "training": Speed(fixed=start, per_cost=measured.step_seconds / step_seconds(size.training, CPU), source=source),
        "scoring": Speed(fixed=start, per_cost=1 / each, source=f"{source}; scores by the products that they consist of"),
        "report": Speed(fixed=0.0, per_cost=REPORT_S, source=REPORT_S.source),
    }
    if measured.flop_per_second is None:
        rate = 1 / measured.write_bytes_per_second + ENCODE_S
        found["harvest"] = Speed(fixed=0.0, per_cost=rate, source=f"{source}, and {ENCODE_S.source}")
    else:
        rate = measured.processes / size.harvesters / measured.flop_per_second
        found["harvest"] = Speed(fixed=RAY_S + start, per_cost=rate, source=source)
    if size.corpus is not None and (size.model is None or measured.flop_per_second is None):
        del found["harvest"], found["scoring"]
    if measured.token_seconds is not None:
        found["text"] = Speed(fixed=measured.tokenizer_seconds, per_cost=measured.token_seconds, source="counting the text")
    return found


def of_accounts(
    accounts: Sequence[Account], size: RunSize, keys: Keys, model: Callable[[Sequence[str]], ModelSize | None]
) -> dict[StageName, Speed]:
    """What earlier runs say of each stage that they did from its begin to its end; of several the nearest in size.

    Args:
        accounts: of earlier runs, the newest first.
        size: of the run that is planned.
        keys: what has to be the same for a stage's speed to be the same.
        model: the work of the model of this run up to other hooks; None where it cannot be told.
    """
    mine = needs(size, CPU)
    found: dict[StageName, Speed] = {}
    nearest: dict[StageName, float] = {}
    for account in accounts:
        for stage, done in account.stages.items():
            if stage not in mine or done.key != keys[stage]:
                continue
            theirs = _needed(account, stage, size, model)
            if theirs is None:
                continue
            away = abs(log(max(1.0, mine[stage].cost) / max(1.0, theirs.cost)))
            if away < nearest.get(stage, float("inf")):
                nearest[stage] = away
                found[stage] = _of_run(account, stage, theirs.cost)
    return found


def _needed(
    account: Account, stage: StageName, size: RunSize, model: Callable[[Sequence[str]], ModelSize | None]
) -> Need | None:
    """What an earlier run's stage needed, in the units of the one that is planned; None where that cannot be told.

    Only of stages that run the model its work is asked for, which takes seconds to count: the other stages' accounts may be
    those of runs of another model, whose hooks this one need not have.
    """
    found = None
    if stage in OF_THE_MODEL and size.model is not None and account.hooks is not None:
        found = model(account.hooks)
        if found is None:
            return None
    return needs(replace(account.size, model=found), CPU)[stage]


def _of_run(account: Account, stage: StageName, cost: float) -> Speed:
    done = account.stages[stage]
    busy = done.seconds - min(done.fixed, 0.9 * done.seconds)
    return Speed(fixed=done.seconds - busy, per_cost=busy / cost if cost else 0.0, source=f"the run of {account.at} here")


def of_card(processor: Processor, size: RunSize) -> dict[StageName, Speed]:
    """What a named card is said to do; the cost of training is then seconds on that card already."""
    found: dict[StageName, Speed] = {
        "training": Speed(fixed=0.0, per_cost=1.0, source="tests/benchmarks/SCALING.md's table of a step's terms"),
        "text": Speed(fixed=0.0, per_cost=TEXT_S, source=TEXT_S.source),
        "report": Speed(fixed=0.0, per_cost=REPORT_S, source=REPORT_S.source),
    }
    if size.model is None:
        found["harvest"] = Speed(fixed=0.0, per_cost=ENCODE_S, source=ENCODE_S.source)
        found["scoring"] = Speed(fixed=0.0, per_cost=1 / processor.product, source=processor.product.source)
        return found
    rate = harvest_rate(processor, size.model.flop_to_hook / size.context_length)
    found["harvest"] = Speed(fixed=0.0, per_cost=1 / (rate * size.harvesters), source=rate.source)
    found["scoring"] = Speed(
        fixed=0.0, per_cost=1 / rate, source=f"the harvest's speed, not measured itself ({rate.source})"
    )
    return found


def harvest_rate(processor: Processor, flop_per_token: float) -> Constant:
    """FLOP/s of a harvest by the measurement whose model is nearest in work per token, in proportion to its own work."""
    nearest = min(processor.harvests, key=lambda one: abs(log(one.flop_per_token / max(1.0, flop_per_token))))
    return Constant(nearest.flop_per_token * nearest.tokens_per_second, nearest.tokens_per_second.source)


def _aged(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.0f} minutes old" if seconds >= 90 else "made just now"
    return f"{seconds / 3600:.0f} hours old" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days old"


def _flop_of_one(measured: Measured) -> float:
    if measured.flop_per_second is None:
        return measured.product_flop_per_second
    return measured.flop_per_second / measured.processes
