"""JumpReLU's step at few latents only: those above their threshold, and those in the window through which it learns."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.sae.architecture import Batch
from tasks.sae.dense import Found
from tasks.sae.exchange import Exchange
from tasks.sae.parameters import Parameters
from tasks.sae.selected import write_rest
from tasks.sae.sparse_step import look

SPARSE_BELOW = 0.2
"""Share of latents in the window or above it in the step before below which a step touches these only.

At d_in 576, d_sae 9216, batch 2048, two busy cores (``tests/benchmarks/step_paths.py``), the dense step took 3.4, 3.1, 3.7,
2.7, 2.2 and 1.6 times as long in bf16 at shares of .5, 1, 2, 5, 10 and 20%, and 8.3, 7.0, 6.9, 3.7, 2.3 and 2.1 in fp32.
"""


def sparse_jumprelu_step(
    parameters: Parameters,
    out: Parameters,
    batch: Batch,
    exchange: Exchange,
    width: float,
    price: Callable[[Float[Tensor, ""]], tuple[Tensor, Tensor]],
) -> Found:
    """Gradients of the mean over rows of the squared error, plus what the mean number of active latents costs.

    Args:
        parameters: the weights, with ``log_threshold``.
        out: gets the gradients of all but encoder, W_dec and b_enc, which are in the result.
        batch: this worker's rows.
        exchange: to the other workers.
        width: of the window around each threshold.
        price: what so many active latents per row cost, and its derivative by them.
    """
    threshold = parameters.extra["log_threshold"].exp()
    seen = look(parameters, batch, exchange, window_start(threshold, width))
    n, z, level = len(seen.x), seen.entries.values, threshold[seen.entries.latents]
    active = z > level
    entries = replace(seen.entries, values=z.where(active, 0.0))
    rows, d_values = seen.decode(entries)
    write_rest(out, rows, seen.x)
    penalty, slope = price(seen.total(active.sum().to(z.dtype)) / n)
    in_window = (z - level).abs() < width / 2
    # Times -1 / width the loss's derivative by t: the jump's height is t, and one more active latent raises l0 by 1 / n.
    jumps = entries.only(in_window).sum_by_latent((level * d_values + slope / n)[in_window], len(threshold))
    torch.mul(jumps, threshold / -width, out=out.extra["log_threshold"])
    kept = entries.only(active)
    gradients = seen.by_latent(seen.part(kept, d_values[active], rows))
    return Found(seen.sums(rows.squared_error, penalty, kept), gradients, seen.total(penalty.new_tensor(len(z))))


def window_start(threshold: Float[Tensor, "d_sae"], width: float) -> Float[Tensor, "d_sae"]:
    """A level below each threshold's window, by as little as rounding needs that none in the window is missed."""
    return threshold - width / 2 - torch.finfo(threshold.dtype).eps * (threshold + width)
