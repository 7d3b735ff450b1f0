"""Training from an iterable of batches to a finished state: steps, curve, checkpoints. Knows no storage and no Ray."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tasks.sae.mesh import Mesh, OneProcess, Traffic, all_reduce_over_mesh
from tasks.sae.scaling import Scaling
from tasks.train.curve import CurveRow, Meter
from tasks.train.optimizer import all_gather_moments
from tasks.train.plan import Plan
from tasks.train.step import train_step
from tasks.train.timing import Timing
from tasks.train.train_state import TrainState

STOPS_EVERY = 8
"""Steps between two looks at whether to stop: workers have to agree on it, and a GPU has to be waited for."""


@dataclass(slots=True)
class Run:
    """A training run between two steps: what a checkpoint holds."""

    state: TrainState
    curve: list[CurveRow] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)
    """The steps since the curve's last row."""
    timing: Timing = field(default_factory=Timing)

    @property
    def device(self) -> str:
        """The kind of device that steps are taken on (``cpu``, ``cuda``), also of a copy, whose gradients stay there."""
        return self.state.gradients.flat.device.type


class StoppedError(Exception):
    """A worker was told to stop, and all have taken a checkpoint."""


def ignore(_: object) -> None:
    """Listen to nothing."""


def train(
    run: Run,
    batches: Iterable[Tensor],
    plan: Plan,
    scaling: Scaling,
    mesh: Mesh | None = None,
    on_row: Callable[[Run], None] = ignore,
    on_checkpoint: Callable[[Run], None] = ignore,
    told_to_stop: Callable[[], bool] | None = None,
    is_due: Callable[[int], bool] = lambda step: False,
) -> Run:
    """Advance ``run`` in place through ``batches``, this worker's raw rows of the steps from ``run.state.step`` on.

    Rows of the curve close every ``plan.log_every`` steps and at the end. A run that goes on from a checkpoint, at
    whatever step, takes the same steps and closes the same rows as one that was never stopped. ``on_row`` gets the run as
    each row, the last of its curve, has been closed. If a worker is ``told_to_stop`` (all must be able to be), all take a
    checkpoint at the same step, within ``STOPS_EVERY`` steps; and so they do after steps that are ``is_due`` to each.

    Raises:
        NotFiniteError: the loss or the gradient is not a finite number any more.
        StoppedError: a worker was told to stop.
    """
    stepper = Stepper(run, plan, scaling, mesh, on_row, on_checkpoint, is_due)
    for raw, waited in timed(batches):
        stepper.take(raw, waited)
        if stepper.done:
            break
        if told_to_stop is not None and run.state.step % STOPS_EVERY == 0 and _any(told_to_stop(), raw, stepper.mesh):
            stepper.save()
            raise StoppedError
    return run


def _any(mine: bool, like: Tensor, mesh: Mesh) -> bool:
    """Whether one of all workers says so."""
    said = torch.tensor([float(mine)], device=like.device)
    all_reduce_over_mesh(mesh, said)
    return bool(said > 0)


class Stepper:
    """A training run on its way, to be given its batches one by one."""

    def __init__(
        self,
        run: Run,
        plan: Plan,
        scaling: Scaling,
        mesh: Mesh | None = None,
        on_row: Callable[[Run], None] = ignore,
        on_checkpoint: Callable[[Run], None] = ignore,
        is_due: Callable[[int], bool] = lambda step: False,
    ) -> None:
        self.run = run
        self.mesh = mesh or OneProcess()
        self._plan, self._scaling = plan, scaling
        self._on_row, self._on_checkpoint, self._is_due = on_row, on_checkpoint, is_due
        self._saved_at: int | None = None
        self._clock = _Clock(run.timing, self.mesh.traffic)

    @property
    def done(self) -> bool:
        """Whether the last step has been taken."""
        return self.run.state.step >= self._plan.n_steps

    def take(self, raw: Tensor, waited: float) -> None:
        """Advance the run by one step on this worker's raw rows, which were waited for so many seconds.

        Raises:
            NotFiniteError: the loss or the gradient is not a finite number any more.
        """
        run, state, plan = self.run, self.run.state, self._plan
        self._clock.got(raw, waited)
        run.meter.add(train_step(state, raw, plan, self._scaling, self.mesh))
        closes = self.done or state.step % plan.log_every == 0
        if closes:
            run.curve.append(run.meter.row(state, plan, self.mesh.latents))
        self._clock.stepped()
        if closes:
            self._on_row(run)
        if self.done or state.step % plan.checkpoint_every == 0 or self._is_due(state.step):
            self.save()
        self._clock.saved()

    def save(self) -> None:
        """Take a checkpoint, unless one was taken at this step."""
        if self._saved_at != self.run.state.step:
            all_gather_moments(self.run.state, self.mesh)
            self._on_checkpoint(self.run)
            self._saved_at = self.run.state.step


def timed(batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, float]]:
    """Each batch with the seconds that it was waited for."""
    found = iter(batches)
    while True:
        began = time.perf_counter()
        raw = next(found, None)
        if raw is None:
            return
        yield raw, time.perf_counter() - began


class _Clock:
    """Adds up where the time goes."""

    def __init__(self, timing: Timing, traffic: Traffic) -> None:
        self._timing, self._traffic = timing, traffic
        self._seconds, self._bytes = traffic.seconds, traffic.sent_bytes
        self._since = time.perf_counter()

    def got(self, raw: Tensor, waited: float) -> None:
        """The next batch is there, after so many seconds; what other runs of this process did meanwhile does not count."""
        self._timing.seconds += waited
        self._timing.waiting += waited
        self._timing.read_bytes += raw.nbytes
        self._since = time.perf_counter()

    def saved(self) -> None:
        """Listeners have heard of the step, and a checkpoint has been handed over if one was due."""
        self._timing.saving += self._lap()

    def stepped(self) -> None:
        """The step is done."""
        self._lap()
        self._timing.exchanging += self._traffic.seconds - self._seconds
        self._timing.sent_bytes += self._traffic.sent_bytes - self._bytes
        self._seconds, self._bytes = self._traffic.seconds, self._traffic.sent_bytes

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._since = now - self._since, now
        self._timing.seconds += lap
        return lap
