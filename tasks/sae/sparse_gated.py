"""The step of gated SAEs once few gates are open: the same gradients, at the latents with open gates only."""

from dataclasses import replace

from torch import Tensor

from tasks.sae.architecture import Batch
from tasks.sae.dense import Found
from tasks.sae.exchange import Exchange
from tasks.sae.parameters import Parameters
from tasks.sae.selected import write_rest
from tasks.sae.sparse_step import look

SPARSE_BELOW = 0.2
"""Share of open gates in the step before below which a step touches these latents only.

At d_in 576, d_sae 9216, batch 2048, two busy cores (``tests/benchmarks/step_paths.py``), the dense step took 5.2, 4.7, 4.8,
3.5, 2.3 and 1.5 times as long in bf16 at shares of .5, 1, 2, 5, 10 and 20%, and 5.9, 6.1, 5.2, 4.5, 2.7 and 1.9 in fp32.
"""


def sparse_gated_step(
    parameters: Parameters, out: Parameters, batch: Batch, exchange: Exchange, coefficient: float | Tensor
) -> Found:
    """Gradients of the mean over rows of both squared errors and ``coefficient`` times the sum of gates.

    Args:
        parameters: the weights, with ``r_mag`` and ``b_mag``.
        out: gets the gradients of all but encoder, W_dec and b_enc, which are in the result.
        batch: this worker's rows.
        exchange: to the other workers.
        coefficient: of the sparsity term.
    """
    seen = look(parameters, batch, exchange, 0.0)
    gate, latents, d_sae = seen.entries, seen.entries.latents, len(parameters.b_enc)
    own, gain = gate.values - parameters.b_enc[latents], parameters.extra["r_mag"].exp()[latents]
    codes = replace(gate, values=(gain * own + parameters.extra["b_mag"][latents]).relu())
    (rows, d_values), (alone, d_alone) = seen.decode(codes), seen.decode(gate)
    write_rest(out, rows, seen.x)
    price = coefficient / len(seen.x)
    d_magnitude = d_values.where(codes.values > 0, 0.0)
    d_own, d_gate = d_magnitude * gain, d_alone + price
    out.extra["b_mag"].copy_(gate.sum_by_latent(d_magnitude, d_sae))
    out.extra["r_mag"].copy_(gate.sum_by_latent(d_own * own, d_sae))
    # Magnitudes do not see b_enc: what they add to its gradient beside the encoder's is taken away again.
    bias = -gate.sum_by_latent(d_own, d_sae)
    gradients = seen.by_latent(seen.part(codes, d_gate + d_own, rows), bias=bias)
    penalty = alone.squared_error[-1].to(gate.values.dtype) / len(seen.x) + price * seen.total(gate.values.sum())
    sums = seen.sums(rows.squared_error, penalty, codes.only(codes.values > 0))
    return Found(sums, gradients, seen.total(penalty.new_tensor(len(latents))))
