"""The finished SAE as a torch module: raw activations in, codes and raw reconstructions out."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tasks.errors import InputError
from tasks.sae.config import SAEConfig
from tasks.sae.ops import SparseCodes, decode_sparse
from tasks.sae.registry import architecture
from tasks.sae.scaling import Weights


class SparseAutoencoder(nn.Module):
    """codes = act(x W_enc + b_enc), x_hat = codes W_dec + b_dec, in float32, for activations as the model makes them.

    What is rebuilt is the input itself, or, for a transcoder, the activations of another hook; a crosscoder's rows are
    the activations of several hooks side by side.
    """

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, "d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, "d_out"]

    def __init__(self, config: SAEConfig, weights: Weights) -> None:
        super().__init__()
        d_in, d_sae = weights.W_enc.shape
        self.config = replace(config, d_in=d_in, d_sae=d_sae)
        self.architecture = architecture(config.arch)
        self.W_enc = nn.Parameter(weights.W_enc)
        self.b_enc = nn.Parameter(weights.b_enc)
        self.W_dec = nn.Parameter(weights.W_dec)
        self.b_dec = nn.Parameter(weights.b_dec)
        self.extra = nn.ParameterDict({name: nn.Parameter(tensor) for name, tensor in weights.extra.items()})

    @property
    def d_in(self) -> int:
        """Width of the activations that are encoded."""
        return len(self.W_enc)

    @property
    def d_out(self) -> int:
        """Width of the activations that are rebuilt."""
        return len(self.b_dec)

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return len(self.b_enc)

    @property
    def keeps_k(self) -> bool:
        """Whether exactly k latents are kept per row, which is what ``encode_sparse`` needs."""
        return self.architecture.keeps_k

    @property
    def weights(self) -> Weights:
        """The tensors, as they are saved."""
        return Weights(self.W_enc, self.b_enc, self.W_dec, self.b_dec, dict(self.extra.items()))

    def pre_activations(self, x: Tensor) -> Float[Tensor, "n d_sae"]:
        """Codes before the activation function, of raw activations ``x [n, d_in]`` in any floating-point precision.

        Raises:
            InputError: ``x`` is not a matrix of width d_in.
        """
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise InputError(
                f"activations have shape {list(x.shape)}, but this SAE takes [n, {self.d_in}] (d_in = {self.d_in}). "
                "Use activations of the hook that it was trained on, one row per token."
            )
        return torch.addmm(self.b_enc, x.to(self.W_enc.dtype), self.W_enc)

    def encode(self, x: Tensor) -> Float[Tensor, "n d_sae"]:
        """Codes of raw activations ``x [n, d_in]``, in units of raw activations.

        Raises:
            InputError: ``x`` is not a matrix of width d_in.
        """
        return self.architecture.activate(self.config, self.pre_activations(x), self.weights)

    def encode_sparse(self, x: Tensor) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
        """The same codes as values and latents, k per row, in no order; a value of 0 is a latent that is not active.

        Raises:
            InputError: ``x`` is not a matrix of width d_in, or the architecture keeps no fixed number of latents.
        """
        codes = self.architecture.activate_sparse(self.config, self.pre_activations(x))
        return codes.values, codes.indices

    def decode(self, codes: Float[Tensor, "n d_sae"], x: Tensor | None = None) -> Float[Tensor, "n d_out"]:
        """Raw reconstructions of codes; an SAE with a skip path needs the activations ``x`` too.

        Raises:
            InputError: there is a skip path and no ``x``.
        """
        return codes @ self.W_dec + self._rest(x)

    def decode_sparse(
        self, values: Float[Tensor, "n k"], indices: Int[Tensor, "n k"], x: Tensor | None = None
    ) -> Float[Tensor, "n d_out"]:
        """Raw reconstructions of codes in the form that ``encode_sparse`` gives.

        Raises:
            InputError: there is a skip path and no ``x``.
        """
        return decode_sparse(SparseCodes(values, indices), self.W_dec) + self._rest(x)

    def forward(self, x: Tensor) -> Float[Tensor, "n d_out"]:
        """Raw reconstructions of raw activations ``x [n, d_in]``.

        Raises:
            InputError: ``x`` is not a matrix of width d_in.
        """
        return self.decode(self.encode(x), x)

    def _rest(self, x: Tensor | None) -> Tensor:
        """What is added to the decoded latents."""
        if "W_skip" not in self.extra:
            return self.b_dec
        if x is None:
            raise InputError("This SAE has a skip path: give decode the activations too, decode(codes, x).")
        return torch.addmm(self.b_dec, x.to(self.W_enc.dtype), self.extra["W_skip"].T)
