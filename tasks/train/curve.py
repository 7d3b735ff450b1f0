"""The training curve: sums of steps become rows, rows become a Parquet table."""

import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tasks.errors import InputError
from tasks.train.plan import Plan
from tasks.train.step import StepResult, TrainState


@dataclass(frozen=True, slots=True)
class CurveRow:
    """Means over the steps since the row before, over all workers' rows."""

    step: int
    """Steps done."""
    tokens: int
    """Rows seen in all."""
    loss: float
    fvu: float
    """Squared error over the variance of the whole training set (not of the batch)."""
    l0: float
    dead_fraction: float
    """Latents silent for the plan's window, at this step."""
    lr: float
    grad_norm: float
    """Norm of the last step's gradient, before clipping."""


@dataclass(slots=True)
class Meter:
    """The steps since the last row."""

    results: list[StepResult] = field(default_factory=list)

    def add(self, result: StepResult) -> None:
        """Take in one step; its numbers stay on their device."""
        self.results.append(result)

    def row(self, state: TrainState, plan: Plan) -> CurveRow:
        """Close a row at the state's step.

        Raises:
            InputError: the loss of a step is not a finite number.
        """
        sums = [result.sums for result in self.results]
        losses = torch.stack([s.loss for s in sums]).tolist()
        for i, loss in enumerate(losses):
            if not math.isfinite(loss):
                _refuse(loss, state.step - len(losses) + i + 1, plan)
        n_rows = sum(s.n_rows for s in sums)
        squared_error = float(torch.stack([s.squared_error for s in sums]).double().sum())
        n_active = float(torch.stack([s.n_active for s in sums]).double().sum())
        row = CurveRow(
            step=state.step,
            tokens=state.step * plan.batch_rows,
            loss=sum(losses) / len(losses),
            fvu=squared_error / (n_rows * plan.layout.d_out),
            l0=n_active / n_rows,
            dead_fraction=float((state.silent >= plan.dead_after).double().mean()),
            lr=plan.lr_at(state.step - 1),
            grad_norm=float(self.results[-1].grad_norm),
        )
        self.results.clear()
        return row


def _refuse(loss: float, step: int, plan: Plan) -> None:
    raise InputError(
        f"The training loss is {loss} at step {step} of {plan.n_steps} (peak learning rate {plan.lr:g}). "
        "Lower train.lr, or look for infinite or NaN values in the activations."
    )


def curve_to_parquet(rows: Sequence[CurveRow]) -> bytes:
    """The curve as a Parquet file."""
    types = {"step": pa.int64(), "tokens": pa.int64()}
    schema = pa.schema([(f.name, types.get(f.name, pa.float64())) for f in fields(CurveRow)])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema), sink)
    return sink.getvalue()
