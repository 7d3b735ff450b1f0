"""Centring and scaling of activations, and folding both into the weights so that raw activations go in and come out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.sae.parameters import Layout, Parameters, zeros


@dataclass(frozen=True, slots=True)
class Scaling:
    """The map x -> (x - mean) * scale that the SAE is trained behind, feature by feature."""

    mean: Float[Tensor, "width"]
    scale: Float[Tensor, "width"]

    def apply(self, raw: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        """Scaled rows in the mean's precision; a new tensor, so raw rows stay as they are."""
        return raw.to(self.mean.dtype, copy=True).sub_(self.mean).mul_(self.scale)

    def columns(self, start: int, stop: int) -> "Scaling":
        """The map of some features alone."""
        return Scaling(self.mean[start:stop], self.scale[start:stop])


def scaling(mean: Float[Tensor, "d_in"], variance: float) -> Scaling:
    """Centre, and scale so that E||x||^2 = d_in, where ``variance`` is E||x - mean||^2 over the training rows.

    Subtracting the mean removes the direction that otherwise kills latents (https://arxiv.org/abs/2605.31518: the ratio
    of mean to deviation predicts the dead); E||x||^2 = d_in is the scale that published coefficients and learning rates
    are for (https://transformer-circuits.pub/2024/april-update). Constant activations keep their scale.
    """
    scale = (len(mean) / variance) ** 0.5 if variance > 0 else 1.0
    return Scaling(mean, torch.full_like(mean, scale))


def side_by_side(scalings: Sequence[Scaling]) -> Scaling:
    """The map of several hooks' features beside each other, each by its own statistics."""
    return Scaling(torch.cat([s.mean for s in scalings]), torch.cat([s.scale for s in scalings]))


@dataclass(frozen=True, slots=True)
class Weights:
    """A finished SAE's tensors, for raw activations: codes = act(x W_enc + b_enc), x_hat = codes W_dec + b_dec."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, "d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, "d_out"]
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What the architecture has beside these: ``threshold``, ``r_mag``, ``b_mag`` [d_sae], ``W_skip`` [d_out, d_in]."""


@dataclass(frozen=True, slots=True)
class Folding:
    """How parameters for scaled rows become those for raw ones."""

    unit: float
    """Codes are this many times smaller in the finished SAE."""
    shift: Float[Tensor, "d_sae"]
    """What the mean adds to pre-activations, in scaled units."""

    def bias(self, b: Float[Tensor, "d_sae"], gain: Tensor | float = 1.0) -> Float[Tensor, "d_sae"]:
        """A bias of pre-activations whose weights are the encoder's, each times ``gain``."""
        return (b.double() - gain * self.shift) / self.unit

    def level(self, threshold: Tensor) -> Tensor:
        """A threshold on pre-activations."""
        return threshold.double() / self.unit

    def own_bias(self, b: Float[Tensor, "d_sae"], gain: Tensor | float = 1.0) -> Float[Tensor, "d_sae"]:
        """The inverse of ``bias``."""
        return b.double() * self.unit + gain * self.shift

    def own_level(self, threshold: Tensor) -> Tensor:
        """The inverse of ``level``."""
        return threshold.double() * self.unit


def unit_of(scaling: Scaling) -> float:
    """The geometric mean of the features' scales, by which codes are smaller in a finished SAE."""
    return float(scaling.scale.double().log().mean().exp())


def folding(parameters: Parameters, scaling: Scaling) -> Folding:
    """For an encoder that reads rows behind ``scaling``.

    All codes are divided by one factor, the (geometric mean) scale: ReLU, thresholds and the choice of the largest do not
    mind, and where all features have the same scale the weights stay as they are and codes are in units of raw
    activations.
    """
    return Folding(unit_of(scaling), parameters.encoder.double() @ (scaling.scale.double() * scaling.mean.double()))


def fold(
    parameters: Parameters,
    scaling: Scaling,
    output: Scaling | None = None,
    extra: Mapping[str, Tensor] | None = None,
) -> Weights:
    """The finished SAE's tensors for raw activations, in float32.

    Args:
        parameters: as trained on scaled rows.
        scaling: of the input.
        output: of what is rebuilt; the input's where it is the input.
        extra: the architecture's own tensors, folded already.
    """
    output = output or scaling
    at = folding(parameters, scaling)
    s_in, s_out, m_in = scaling.scale.double(), output.scale.double(), scaling.mean.double()
    b_dec = parameters.b_dec.double() / s_out + output.mean.double()
    others = dict(extra or {})
    if "W_skip" in parameters.extra:
        W_skip = parameters.extra["W_skip"].double() * s_in / s_out[:, None]
        b_dec -= W_skip @ m_in
        others["W_skip"] = W_skip
    return Weights(
        W_enc=(parameters.encoder.double() * (s_in / at.unit)).T.float().contiguous(),
        b_enc=at.bias(parameters.b_enc).float(),
        W_dec=(parameters.W_dec.double() * (at.unit / s_out)).float(),
        b_dec=b_dec.float(),
        extra={name: tensor.float() for name, tensor in others.items()},
    )


def unfold(weights: Weights, layout: Layout, scaling: Scaling, output: Scaling | None = None) -> Parameters:
    """The inverse of ``fold``, for any scaling: parameters that do on scaled rows what ``weights`` do on raw ones.

    What the architecture has of its own is 0, but for a skip path.

    Args:
        weights: of a finished SAE.
        layout: its sizes.
        scaling: of the input, which need not be the one that the SAE was trained behind.
        output: of what is rebuilt; the input's where it is the input.
    """
    output, found = output or scaling, zeros(layout, device=weights.W_enc.device)
    s_in, s_out, m_in = scaling.scale.double(), output.scale.double(), scaling.mean.double()
    unit = unit_of(scaling)
    found.encoder.copy_(weights.W_enc.double().T * (unit / s_in))
    found.b_enc.copy_(folding(found, scaling).own_bias(weights.b_enc))
    found.W_dec.copy_(weights.W_dec.double() * (s_out / unit))
    b_dec = weights.b_dec.double() - output.mean.double()
    if "W_skip" in layout.extra:
        W_skip = weights.extra["W_skip"].double()
        b_dec = b_dec + W_skip @ m_in
        found.extra["W_skip"].copy_(W_skip * s_out[:, None] / s_in)
    found.b_dec.copy_(b_dec * s_out)
    return found
