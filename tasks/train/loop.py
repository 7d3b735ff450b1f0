"""Training from an iterable of batches to a finished state: steps, curve, checkpoints. Knows no storage and no Ray."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor

from tasks.sae.exchange import Alone, Exchange, Traffic
from tasks.sae.scaling import Scaling
from tasks.train.curve import CurveRow, Meter
from tasks.train.plan import Plan
from tasks.train.spent import Spent
from tasks.train.step import TrainState, update


@dataclass(slots=True)
class Run:
    """A training run between two steps: what a checkpoint holds."""

    state: TrainState
    curve: list[CurveRow] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)


def ignore(_: object) -> None:
    """Listen to nothing."""


def train(
    run: Run,
    batches: Iterable[Tensor],
    plan: Plan,
    scaling: Scaling,
    exchange: Exchange | None = None,
    on_row: Callable[[Run], None] = ignore,
    on_checkpoint: Callable[[Run], None] = ignore,
) -> Run:
    """Advance ``run`` in place through ``batches``, this worker's raw rows of the steps from ``run.state.step`` on.

    Rows of the curve close every ``plan.log_every`` steps and at the end, checkpoints fall on such steps, so a run that
    goes on from a checkpoint takes the same steps and closes the same rows as one that was never stopped. ``on_row`` gets
    the run as each row, the last of its curve, has been closed.

    Raises:
        NotFiniteError: the loss or the gradient is not a finite number any more.
    """
    exchange = exchange or Alone()
    meter = Meter()
    state, clock = run.state, _Clock(run.spent, exchange.traffic)
    for raw in batches:
        clock.got(raw)
        meter.add(update(state, raw, plan, scaling, exchange))
        last = state.step == plan.n_steps
        closes = last or state.step % plan.log_every == 0
        if closes:
            run.curve.append(meter.row(state, plan, exchange.latents))
        clock.stepped()
        if closes:
            on_row(run)
        if last or state.step % plan.checkpoint_every == 0:
            on_checkpoint(run)
        clock.saved()
        if last:
            break
    return run


class _Clock:
    """Adds up where the time goes."""

    def __init__(self, spent: Spent, traffic: Traffic) -> None:
        self._spent, self._traffic = spent, traffic
        self._seconds, self._bytes = traffic.seconds, traffic.sent_bytes
        self._since = time.perf_counter()

    def got(self, raw: Tensor) -> None:
        """The next batch is there."""
        self._spent.waiting += self._lap()
        self._spent.read_bytes += raw.nbytes

    def saved(self) -> None:
        """Listeners have heard of the step, and a checkpoint has been handed over if one was due."""
        self._spent.saving += self._lap()

    def stepped(self) -> None:
        """The step is done."""
        self._lap()
        self._spent.exchanging += self._traffic.seconds - self._seconds
        self._spent.sent_bytes += self._traffic.sent_bytes - self._bytes
        self._seconds, self._bytes = self._traffic.seconds, self._traffic.sent_bytes

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._since = now - self._since, now
        self._spent.seconds += lap
        return lap
