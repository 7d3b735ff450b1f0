"""Training from an iterable of batches to a finished state: steps, curve, checkpoints. Knows no storage and no Ray."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor

from tasks.sae.exchange import Alone, Exchange
from tasks.sae.scaling import Scaling
from tasks.train.curve import CurveRow, Meter
from tasks.train.plan import Plan
from tasks.train.step import TrainState, update


@dataclass(slots=True)
class Run:
    """A training run between two steps: what a checkpoint holds."""

    state: TrainState
    curve: list[CurveRow] = field(default_factory=list)
    seconds: float = 0.0
    """Time spent in steps by all attempts up to the checkpoint that this was read from."""


def ignore(_: object) -> None:
    """Listen to nothing."""


def train(
    run: Run,
    batches: Iterable[Tensor],
    plan: Plan,
    scaling: Scaling,
    exchange: Exchange | None = None,
    on_row: Callable[[CurveRow], None] = ignore,
    on_checkpoint: Callable[[Run], None] = ignore,
) -> Run:
    """Advance ``run`` in place through ``batches``, this worker's raw rows of the steps from ``run.state.step`` on.

    Rows of the curve close every ``plan.log_every`` steps and at the end, checkpoints fall on such steps, so a run that
    goes on from a checkpoint takes the same steps and closes the same rows as one that was never stopped.

    Raises:
        NotFiniteError: the loss or the gradient is not a finite number any more.
    """
    exchange = exchange or Alone()
    meter = Meter()
    state = run.state
    for raw in batches:
        meter.add(update(state, raw, plan, scaling, exchange))
        last = state.step == plan.n_steps
        if last or state.step % plan.log_every == 0:
            run.curve.append(meter.row(state, plan))
            on_row(run.curve[-1])
        if last or state.step % plan.checkpoint_every == 0:
            on_checkpoint(run)
        if last:
            break
    return run
