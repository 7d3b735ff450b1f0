"""An SAE between two libraries: its tensors in saemill's form, and where it belongs.

What a library does differently is undone by two exact moves: a bias subtracted from the rows goes into the encoder's
biases, and a factor on a latent's code goes into its weights on both sides.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.errors import InputError
from tasks.sae import SAEConfig, SparseAutoencoder
from tasks.sae.architectures.registry import architecture
from tasks.sae.belonging import Belonging
from tasks.sae.scaling import Weights

Kind = Literal["relu", "topk", "jumprelu", "gated"]
"""How pre-activations become codes; architectures that differ only in their training are of one kind."""

_KINDS: dict[frozenset[str], Kind] = {
    frozenset(): "relu",
    frozenset({"threshold"}): "jumprelu",
    frozenset({"r_mag", "b_mag"}): "gated",
}
# What an imported SAE of each kind is called here, where its own library's name for its training is not known.
_ARCHS: dict[Kind, str] = {"relu": "l1", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}


@dataclass(frozen=True, slots=True)
class Portable:
    """A finished SAE for raw activations; ``weights`` are as ``tasks.sae`` has them."""

    config: SAEConfig
    weights: Weights
    belongs: Belonging

    @property
    def kind(self) -> Kind:
        """How pre-activations become codes.

        Raises:
            InputError: no other library is known to have such an architecture.
        """
        if architecture(self.config.arch).keeps_k:
            return "topk"
        found = _KINDS.get(frozenset(self.weights.extra) - {"W_skip"})
        if found is None:
            raise InputError(f"Architecture {self.config.arch} has a form that no other library is known to have.")
        return found

    @property
    def W_skip(self) -> Tensor | None:  # noqa: N802
        """The linear path beside the latents [d_out, d_in], or None."""
        return self.weights.extra.get("W_skip")

    @property
    def is_transcoder(self) -> bool:
        """Whether something else than the input is rebuilt, or with a path beside the latents."""
        return self.belongs.target_hook is not None or self.W_skip is not None or self.d_in != self.d_out

    @property
    def d_in(self) -> int:
        """Width of the rows that are encoded."""
        return len(self.weights.W_enc)

    @property
    def d_out(self) -> int:
        """Width of the rows that are rebuilt."""
        return len(self.weights.b_dec)

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return len(self.weights.b_enc)

    def module(self) -> SparseAutoencoder:
        """The SAE itself."""
        return SparseAutoencoder(self.config, self.weights, self.belongs)


def imported(kind: Kind, weights: Weights, belongs: Belonging, arch: str | None = None, **settings: Any) -> Portable:
    """An SAE of another library; ``settings`` are those of ``SAEConfig`` that it has, such as k.

    Raises:
        InputError: the settings are impossible, such as more latents kept than there are, or weights are not finite.
    """
    named = {name: getattr(weights, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")} | dict(weights.extra)
    endless = next((name for name, tensor in named.items() if not tensor.isfinite().all()), None)
    if endless is not None:
        raise InputError(f"The SAE to import cannot be one: its {endless} has numbers that are not finite in float32.")
    d_in, d_sae = weights.W_enc.shape
    skip = "W_skip" in weights.extra
    try:
        config = SAEConfig(arch=arch or _ARCHS[kind], d_in=d_in, d_sae=d_sae, skip=skip, **settings)
    except ValueError as error:
        raise InputError(f"The SAE to import cannot be one: {error}") from None
    return Portable(config, weights, belongs)


def behind_bias(weights: Weights, bias: Float[Tensor, "d_in"]) -> Weights:
    """The weights with which rows ``x - bias`` give the pre-activations that rows ``x`` gave; undone by ``-bias``."""
    shift = bias.double() @ weights.W_enc.double()
    extra = dict(weights.extra)
    if "b_mag" in extra:
        extra["b_mag"] = (extra["b_mag"].double() + extra["r_mag"].double().exp() * shift).to(extra["b_mag"].dtype)
    return replace(weights, b_enc=(weights.b_enc.double() + shift).to(weights.b_enc.dtype), extra=extra)


def with_codes_times(weights: Weights, factor: Float[Tensor, "d_sae"]) -> Weights:
    """The same SAE with each latent's code multiplied by a positive factor, and its reconstructions unchanged."""

    def times(tensor: Tensor, factor: Tensor) -> Tensor:
        return (tensor.double() * factor).to(tensor.dtype)

    factor = factor.double()
    per_code = {name: times(tensor, factor) for name, tensor in weights.extra.items() if name in ("threshold", "b_mag")}
    return Weights(
        times(weights.W_enc, factor),
        times(weights.b_enc, factor),
        times(weights.W_dec, 1 / factor[:, None]),
        weights.b_dec,
        {**weights.extra, **per_code},
    )


def row_norms(W_dec: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "d_sae"]:
    """Norm of each latent's decoder row, in float64."""
    norms: Tensor = torch.linalg.vector_norm(W_dec.double(), dim=1)
    return norms
