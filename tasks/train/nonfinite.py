"""Why a step's loss is not a finite number: which of its rows are at fault, or that none is."""

import torch
from torch import Tensor

from tasks.activations.loader.window_reader import Reader
from tasks.errors import InputError
from tasks.sae.scaling import Scaling


class NotFiniteError(InputError):
    """A step's loss or gradient is infinite or NaN."""

    def __init__(self, what: str, value: float, step: int, n_steps: int, lr: float) -> None:
        """Say what ``what`` is at ``step``, counted from 1."""
        super().__init__(f"The training {what} is {value} at step {step} of {n_steps} (peak learning rate {lr:g}).")
        self.step = step


def explain(error: NotFiniteError, reader: Reader, raw: Tensor, scaling: Scaling) -> InputError:
    """The error as the user gets it: with a word on the rows of its step, which are looked at here.

    Args:
        error: what training found.
        reader: of all lanes.
        raw: that step's rows as the reader gives them.
        scaling: of the rows.
    """
    norms = torch.linalg.vector_norm(scaling.apply(raw).double(), dim=1).cpu()
    bad = ~torch.isfinite(norms)
    if bool(bad.any()):
        first, more = int(bad.nonzero()[0]), int(bad.sum()) - 1
        others = f" (and {more} more of its rows)" if more else ""
        where = f"{reader.whence(error.step - 1, first)}{others}"
        found = f"{where} is not finite, which no harvest stores: look with saemill verify whether that shard is damaged."
    else:
        largest = int(norms.argmax())
        found = (
            f"All {len(norms)} rows of that step are finite; the largest, {reader.whence(error.step - 1, largest)}, has "
            f"{float(norms[largest] / norms.median()):.1f} times the median norm. Lower train.lr, or set "
            "train.max_grad_norm; checkpoints are from before."
        )
    return InputError(f"{error} {found}")
