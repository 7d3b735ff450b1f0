"""The directions of latents in the space that is rebuilt, in units in which all hooks weigh alike."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.sae import SparseAutoencoder
from tasks.score.roles import Roles


@dataclass(frozen=True, slots=True)
class Directions:
    """Decoder rows, and what they say of each latent."""

    decoder: Float[Tensor, "d_sae d_out"]
    """Decoder rows; a crosscoder's in units of scaled rows."""
    cosine: Float[Tensor, "d_sae"] | None
    """Of encoder column and decoder row; None where they lie in different spaces."""
    norm_shares: Float[Tensor, "d_sae hooks"] | None
    """Norm of the decoder row at each hook over the sum of those at all hooks; None where there is one hook."""

    @property
    def norm(self) -> Float[Tensor, "d_sae"]:
        """Norms of decoder rows."""
        found: Tensor = torch.linalg.vector_norm(self.decoder, dim=1)
        return found


@torch.inference_mode()
def directions(sae: SparseAutoencoder, roles: Roles) -> Directions:
    """The latents' directions.

    A decoder norm at each hook tells which layers a crosscoder's latent belongs to
    (https://transformer-circuits.pub/2024/crosscoders).
    """
    if roles.kind == "transcoder":
        return Directions(sae.W_dec, None, None)
    if roles.scale is None:
        return Directions(sae.W_dec, torch.nn.functional.cosine_similarity(sae.W_enc.T, sae.W_dec, dim=1), None)
    scale = torch.from_numpy(roles.scale).float().to(sae.W_dec.device)
    decoder, encoder = sae.W_dec * scale, sae.W_enc.T / scale
    cosine = torch.nn.functional.cosine_similarity(encoder, decoder, dim=1)
    norms = torch.stack([torch.linalg.vector_norm(decoder[:, part], dim=1) for part in roles.parts], dim=1)
    return Directions(decoder, cosine, norms / norms.sum(dim=1, keepdim=True).clamp_min(torch.finfo(norms.dtype).tiny))
