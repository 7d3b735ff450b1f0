"""The finished SAE as a torch module: raw activations in, codes and raw reconstructions out."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from tasks.errors import InputError
from tasks.sae.architectures.registry import architecture
from tasks.sae.belonging import Belonging
from tasks.sae.config import SAEConfig
from tasks.sae.ops import SparseCodes, decode_sparse
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

    def __init__(self, config: SAEConfig, weights: Weights, belonging: Belonging | None = None) -> None:
        super().__init__()
        self.belonging = belonging or Belonging()
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
    def model(self) -> str | None:
        """The model that its activations are of, where that is known."""
        return self.belonging.model

    @property
    def hook(self) -> str | None:
        """The hook that its activations are of, where that is known; a crosscoder has ``belonging.hooks``."""
        return self.belonging.hook

    @property
    def keeps_k(self) -> bool:
        """Whether exactly k latents are kept per row, which is what ``encode_sparse`` needs."""
        return self.architecture.keeps_k

    @property
    def weights(self) -> Weights:
        """The tensors, as they are saved."""
        return Weights(self.W_enc, self.b_enc, self.W_dec, self.b_dec, dict(self.extra.items()))

    def pre_activations(self, x: Tensor) -> Float[Tensor, "*batch d_sae"]:
        """Codes before the activation function, of raw activations ``x [..., d_in]`` in any floating-point precision.

        Raises:
            InputError: the last dimension of ``x`` is not d_in.
        """
        return torch.addmm(self.b_enc, self._rows(x), self.W_enc).reshape(*x.shape[:-1], self.d_sae)

    def encode(self, x: Tensor) -> Float[Tensor, "*batch d_sae"]:
        """Codes of raw activations ``x [..., d_in]``, in units of raw activations; each row by itself.

        Raises:
            InputError: the last dimension of ``x`` is not d_in.
        """
        pre_acts = self.pre_activations(x)
        codes = self.architecture.activate(self.config, pre_acts.reshape(-1, self.d_sae), self.weights)
        return codes.reshape(pre_acts.shape)

    def encode_sparse(self, x: Tensor) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
        """Codes as values and latents, k per row, in no order; a value of 0 is a latent that is not active.

        Raises:
            InputError: the last dimension of ``x`` is not d_in, or the architecture keeps no fixed number of latents.
        """
        codes = self.architecture.activate_sparse(self.config, self.pre_activations(x).reshape(-1, self.d_sae))
        shape = (*x.shape[:-1], codes.values.shape[1])
        return codes.values.reshape(shape), codes.indices.reshape(shape)

    def decode(self, codes: Float[Tensor, "*batch d_codes"], x: Tensor | None = None) -> Float[Tensor, "*batch d_out"]:
        """Raw reconstructions of codes [..., d_sae]; an SAE with a skip path needs the activations ``x`` too.

        Raises:
            InputError: the last dimension of ``codes`` is not d_sae, or there is a skip path and no ``x``.
        """
        if codes.shape[-1] != self.d_sae:
            raise InputError(f"codes have shape {list(codes.shape)}, but this SAE has {self.d_sae} latents (d_sae).")
        return codes @ self.W_dec + self._rest(x)

    def decode_sparse(
        self, values: Float[Tensor, "*batch k"], indices: Int[Tensor, "*batch k"], x: Tensor | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """Raw reconstructions of codes in the form that ``encode_sparse`` gives.

        Raises:
            InputError: there is a skip path and no ``x``.
        """
        k = values.shape[-1]
        found = decode_sparse(SparseCodes(values.reshape(-1, k), indices.reshape(-1, k)), self.W_dec)
        return found.reshape(*values.shape[:-1], self.d_out) + self._rest(x)

    @override
    def forward(self, x: Tensor) -> Float[Tensor, "*batch d_out"]:
        """Raw reconstructions of raw activations ``x [..., d_in]``.

        Raises:
            InputError: the last dimension of ``x`` is not d_in.
        """
        return self.decode(self.encode(x), x)

    @override
    def __repr__(self) -> str:
        """Architecture and sizes, and where it belongs: 'SparseAutoencoder(topk, d_in 576, ...; model ..., hook ...)'."""
        d_out = f", d_out {self.d_out}" if self.d_out != self.d_in else ""
        skip = ", skip" if "W_skip" in self.extra else ""
        belonging = f"; {self.belonging}" if str(self.belonging) else ""
        sizes = f"d_in {self.d_in}{d_out}, d_sae {self.d_sae}, k {self.config.k}{skip}"
        return f"{type(self).__name__}({self.config.arch}, {sizes}{belonging})"

    def _rows(self, x: Tensor) -> Float[Tensor, "n d_in"]:
        """``x [..., d_in]`` as rows in the weights' precision."""
        if not x.ndim or x.shape[-1] != self.d_in:
            of = f" of {self.hook}" if self.hook else " of the hook that it was trained on"
            raise InputError(
                f"activations have shape {list(x.shape)}, but this SAE takes [..., {self.d_in}] (d_in = {self.d_in}). "
                f"Use activations{of}."
            )
        return x.to(self.W_enc.dtype).reshape(-1, self.d_in)

    def _rest(self, x: Tensor | None) -> Tensor:
        """What is added to the decoded latents."""
        if "W_skip" not in self.extra:
            return self.b_dec
        if x is None:
            raise InputError("This SAE has a skip path: give decode the activations too, decode(codes, x).")
        return torch.addmm(self.b_dec, self._rows(x), self.extra["W_skip"].T).reshape(*x.shape[:-1], self.d_out)
