"""Centring and scaling of activations, and folding both into the weights so that raw activations go in and come out."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tasks.sae.parameters import Parameters


@dataclass(frozen=True, slots=True)
class Scaling:
    """The map x -> (x - mean) * scale that the SAE is trained behind."""

    mean: Float[Tensor, "d_in"]
    scale: float

    def apply(self, raw: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
        """Scaled rows in the mean's precision; a new tensor, so raw rows stay as they are."""
        return raw.to(self.mean.dtype, copy=True).sub_(self.mean).mul_(self.scale)


def scaling(mean: Float[Tensor, "d_in"], variance: float) -> Scaling:
    """Centre, and scale so that E||x||^2 = d_in, where ``variance`` is E||x - mean||^2 over the training rows.

    Subtracting the mean removes the direction that otherwise kills latents (https://arxiv.org/abs/2605.31518: the ratio
    of mean to deviation predicts the dead); E||x||^2 = d_in is the scale that published coefficients and learning rates
    are for (https://transformer-circuits.pub/2024/april-update). Constant activations keep their scale.
    """
    return Scaling(mean, (len(mean) / variance) ** 0.5 if variance > 0 else 1.0)


@dataclass(frozen=True, slots=True)
class Weights:
    """A finished SAE's tensors, for raw activations: codes = act(x W_enc + b_enc), x_hat = codes W_dec + b_dec."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, "d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, "d_in"]


def fold(parameters: Parameters, scaling: Scaling) -> Weights:
    """The same SAE for raw activations, in float32; only the biases change, so decoder rows keep their norms.

    With s the scale and m the mean, s * codes = act(s (x - m) W + b) gives codes = act((x - m) W + b / s), because ReLU
    and the choice of the largest k do not mind a common positive factor. Codes come out in units of raw activations.
    """
    mean, scale = scaling.mean.double(), scaling.scale
    encoder = parameters.encoder.double()
    b_enc = parameters.b_enc.double() / scale - encoder @ mean
    b_dec = parameters.b_dec.double() / scale + mean
    return Weights(
        W_enc=parameters.encoder.T.float().contiguous(),
        b_enc=b_enc.float(),
        W_dec=parameters.W_dec.float().clone(),
        b_dec=b_dec.float(),
    )
