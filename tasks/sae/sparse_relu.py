"""The step of ReLU codes with L1 once few of them are active: the same gradients, taken at the active latents only.

Workers gather rows and codes, as in ``tasks.sae.selected``.
"""

import torch
from torch import Tensor

from tasks.sae.architecture import Batch, StepSums
from tasks.sae.config import SAEConfig
from tasks.sae.exchange import Exchange, gather_entries
from tasks.sae.parameters import Parameters
from tasks.sae.selected import encode, rest_to_rebuild, write_rest
from tasks.sae.sparse import ByLatent, Part, by_latent, decode_rows, select_above


def sparse_l1_gradients(
    config: SAEConfig,
    parameters: Parameters,
    out: Parameters,
    batch: Batch,
    exchange: Exchange,
    coefficient: float | Tensor,
    by_norm: bool,
) -> tuple[StepSums, ByLatent]:
    """Gradients of the mean over rows of the squared error plus ``coefficient`` times the sum of codes.

    Args:
        config: the SAE's settings.
        parameters: the weights.
        out: gets the gradients of all but encoder, W_dec and b_enc, which are in the second result.
        batch: this worker's rows.
        exchange: to the other workers.
        coefficient: of the sparsity term.
        by_norm: weigh each code by the norm of its decoder row.
    """
    d_in = parameters.encoder.shape[1]
    x, y = batch.rows(batch.raw, d_in)
    entries = gather_entries(exchange, select_above(encode(parameters, x, batch), 0.0, parameters.flat.dtype))
    if exchange.world_size > 1:
        x, y = batch.rows(exchange.gather([batch.raw])[0], d_in)
    bounds, price, latents = (config.d_sae,), coefficient / len(x), entries.latents.long()
    target = rest_to_rebuild(parameters, x, y)
    rows = decode_rows(target, entries, parameters.W_dec, x.new_full((1,), 1 / len(x)), bounds)
    write_rest(out, rows, x)
    used = x.new_zeros(config.d_sae).index_add_(0, latents, entries.values)
    norms = torch.linalg.vector_norm(parameters.W_dec, dim=1) if by_norm else torch.ones_like(used)
    radial = (price * used / norms).where(norms > 0, 0.0) if by_norm else None
    part = Part(entries, rows.d_values + price * norms[latents], rows.output_gradient, x, bounds)
    error = rows.squared_error[-1].to(x.dtype)
    loss = error / len(x) + price * (used * norms).sum()
    fired = torch.zeros(config.d_sae, dtype=torch.bool, device=x.device)
    fired[latents] = True
    return StepSums(len(x), loss, error, loss.new_tensor(len(latents)), fired), by_latent([part], config.d_sae, radial)
