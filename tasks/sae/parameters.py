"""The trainable parameters as views into one flat tensor, so that optimizer, all-reduce and checkpoint see one object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

SHARED = ("W_skip",)
"""What of ``Parameters.extra`` belongs to no latent, as b_dec does."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of an SAE's parameters: the four that every SAE has, then those of its architecture by name."""

    d_in: int
    d_sae: int
    d_out: int
    extra: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def by_latent(self) -> int:
        """Numbers in encoder, W_dec and b_enc together, which come first."""
        return (self.d_in + self.d_out + 1) * self.d_sae

    @property
    def size(self) -> int:
        """Numbers in all parameters together."""
        return self.by_latent + self.d_out + sum(map(prod, self.extra.values()))


@dataclass(frozen=True, slots=True)
class Parameters:
    """Weights of one SAE (or their gradients) during training, in the space of scaled activations.

    The encoder is held transposed against the saved ``W_enc``: a latent's weights, and so the rows that its gradient
    touches, lie together.
    """

    flat: Float[Tensor, "size"]
    encoder: Float[Tensor, "d_sae d_in"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_enc: Float[Tensor, "d_sae"]
    b_dec: Float[Tensor, "d_out"]
    extra: Mapping[str, Tensor]
    """What the architecture has beside these, such as thresholds."""


def view(flat: Float[Tensor, "size"], layout: Layout) -> Parameters:
    """Cut a flat tensor into parameters that share its memory."""
    d_in, d_sae, d_out = layout.d_in, layout.d_sae, layout.d_out
    sizes = [d_in * d_sae, d_out * d_sae, d_sae, d_out, *map(prod, layout.extra.values())]
    encoder, W_dec, b_enc, b_dec, *extra = torch.split(flat, sizes)
    named = {name: part.view(shape) for (name, shape), part in zip(layout.extra.items(), extra, strict=True)}
    return Parameters(flat, encoder.view(d_sae, d_in), W_dec.view(d_sae, d_out), b_enc, b_dec, named)


def layout_of(parameters: Parameters) -> Layout:
    """The sizes of some parameters, which may be those of a part of the latents."""
    d_sae, d_out = parameters.W_dec.shape
    extra = {name: tuple(tensor.shape) for name, tensor in parameters.extra.items()}
    return Layout(parameters.encoder.shape[1], d_sae, d_out, extra)


def part_of(parameters: Parameters, part: int, n_parts: int) -> Parameters:
    """A copy of the ``part``-th of ``n_parts`` equal parts of the latents, with all that belongs to no latent."""

    def own(tensor: Tensor, name: str = "") -> Tensor:
        return tensor if name in SHARED else tensor.chunk(n_parts)[part]

    encoder, W_dec, b_enc = own(parameters.encoder), own(parameters.W_dec), own(parameters.b_enc)
    extra = {name: own(tensor, name) for name, tensor in parameters.extra.items()}
    pieces = [encoder, W_dec, b_enc, parameters.b_dec, *extra.values()]
    found = Parameters(torch.cat([piece.reshape(-1) for piece in pieces]), encoder, W_dec, b_enc, parameters.b_dec, extra)
    return view(found.flat, layout_of(found))


def extra_of(layout: Layout, d_own: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the architecture's own parameters where only ``d_own`` of the latents are held."""
    return {name: shape if name in SHARED else (d_own, *shape[1:]) for name, shape in layout.extra.items()}


def joined(flats: Sequence[Float[Tensor, "size"]], layout: Layout) -> Parameters:
    """All latents' parameters from those of equal parts of them; what belongs to no latent is the first part's."""
    d_own = layout.d_sae // len(flats)
    own = replace(layout, d_sae=d_own, extra=extra_of(layout, d_own))
    parts, whole = [view(flat, own) for flat in flats], view(flats[0].new_empty(layout.size), layout)
    for name in ("encoder", "W_dec", "b_enc"):
        getattr(whole, name).copy_(torch.cat([getattr(part, name) for part in parts]))
    whole.b_dec.copy_(parts[0].b_dec)
    for name, tensor in whole.extra.items():
        tensor.copy_(parts[0].extra[name] if name in SHARED else torch.cat([part.extra[name] for part in parts]))
    return whole


def zeros(layout: Layout, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Parameters:
    """Parameters that are all 0."""
    return view(torch.zeros(layout.size, dtype=dtype, device=device), layout)
