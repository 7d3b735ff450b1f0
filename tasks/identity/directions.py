"""The directions of an SAE's latents at norm 1, in units in which all hooks weigh alike."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import normalize

from tasks.sae import SparseAutoencoder


@dataclass(frozen=True, slots=True)
class UnitDirections:
    """Decoder rows and encoder columns at norm 1, so that products are cosines; 0 where a weight is."""

    decoder: Float[Tensor, "d_sae d_out"]
    encoder: Float[Tensor, "d_sae d_in"]


@torch.inference_mode()
def unit_directions(sae: SparseAutoencoder, scale: Float64[np.ndarray, "d_in"] | None) -> UnitDirections:
    """Of an SAE whose features are multiplied by ``scale``, which a crosscoder needs whose hooks vary unequally."""
    decoder, encoder = sae.W_dec.detach(), sae.W_enc.detach().T.contiguous()
    if scale is not None:
        factor = torch.from_numpy(scale).float().to(decoder.device)
        decoder, encoder = decoder * factor, encoder / factor
    return UnitDirections(normalize(decoder), normalize(encoder))
