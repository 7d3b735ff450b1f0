"""What an SAE is: its architecture and sizes. A plain dataclass, so that the maths needs nothing but torch."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from tasks.sae.architectures import names
from tasks.sae.bounds import Within, outside


def _offer_names(schema: dict[str, Any]) -> None:
    """Let forms offer the architectures to choose from."""
    schema["properties"]["arch"] |= {"enum": list(names.NAMES)}


Count = Annotated[int, Within(ge=1, lt=2**31)]
"""Latents are numbered by 32 bits in kernels and files."""
Coefficient = Annotated[float, Within(ge=0, le=1e30)]
Width = Annotated[float, Within(gt=0, le=1e30)]


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """Architecture and sizes of a sparse autoencoder.

    Coefficients are for activations scaled so that E||x||^2 = d_in, which training does by itself.

    Raises:
        ValueError: a value or a combination of values is impossible; the message says what is allowed.
    """

    __pydantic_config__: ClassVar = {
        "extra": "forbid",
        "allow_inf_nan": False,
        "use_attribute_docstrings": True,
        "field_title_generator": lambda name, _: name,
        "json_schema_extra": _offer_names,
    }

    arch: str = "batchtopk"
    """How codes are made sparse: one of the names that `saemill architectures` explains, such as topk, batchtopk, l1."""
    d_in: Count | None = None
    """Width of the activations, in features. Leave empty to take it from the hook; set it to be told when it differs."""
    d_sae: Count = 4608
    """Number of latents, usually 4 to 64 times d_in."""
    k: Count = 32
    """Latents per token: kept (topk), kept on average (batchtopk, matryoshka), or aimed at (all others but dense, unless
    their sparsity coefficient is set)."""
    k_start: Count | None = None
    """k at the start, falling to k over train.k_anneal_fraction of the run. Empty: k throughout."""
    aux_k: Annotated[int, Within(ge=0, lt=2**31)] | None = None
    """Dead latents that rebuild the residual (topk, batchtopk, matryoshka). Empty: twice k, at most d_sae. 0: no AuxK."""
    aux_coefficient: Coefficient = 1 / 32
    """Weight of the AuxK loss."""
    prefixes: tuple[Count, ...] | None = None
    """Ends of the nested groups of latents (matryoshka), rising to d_sae. Empty: d_sae / 32, / 8, / 2 and d_sae."""
    l1_coefficient: Coefficient | None = None
    """Weight of the sparsity term (l1, l1_2023, p_anneal, gated). Empty: found in training, so that k latents are active
    at its end."""
    p_final: Annotated[float, Within(gt=0, le=1)] = 0.2
    """Where p ends (p_anneal)."""
    l0_coefficient: Coefficient | None = None
    """Weight of the L0 term, relative to the share of the variance left over (jumprelu, jumprelu_l0). Empty: found in
    training, as for l1_coefficient (jumprelu), or 3 (jumprelu_l0)."""
    tanh_coefficient: Coefficient | None = None
    """Weight of the tanh term (jumprelu_tanh). Empty: found in training, as for l1_coefficient."""
    tanh_scale: Width = 4.0
    """Factor on the code within the tanh (jumprelu_tanh)."""
    pre_act_coefficient: Coefficient = 3e-6
    """Weight of the term that keeps silent latents within reach of their threshold (jumprelu_tanh)."""
    bandwidth: Width | None = None
    """Width of the window around a threshold through which it learns, in scaled units. Empty: 2 (jumprelu_tanh), or 0.001
    sqrt(d_in) sqrt(1M / steps of the run), at least 0.001 sqrt(d_in) (jumprelu, jumprelu_l0)."""
    skip: bool = False
    """A linear path from the input to the output beside the latents (for transcoders: train.target_hook)."""
    b_dec: Literal["mean", "geometric_median"] = "mean"
    """Where the decoder's bias starts."""

    def __post_init__(self) -> None:
        if self.arch not in names.NAMES:
            kinds = "; ".join(f"{name}: {names.describe(name).about}" for name in names.NAMES)
            raise ValueError(f"sae.arch is {self.arch!r} but must be one of {', '.join(names.NAMES)} ({kinds}).")
        for name, value, bounds in outside(self):
            raise ValueError(f"sae.{name} is {value} but must be {bounds}.")
        for name in ("k", "k_start"):
            if names.describe(self.arch).keeps_k and (getattr(self, name) or 1) > self.d_sae:
                raise ValueError(
                    f"sae.{name} is {getattr(self, name)} but must lie in 1..{self.d_sae} (sae.d_sae). "
                    f"Lower sae.{name} or raise sae.d_sae."
                )
        if self.aux_k is not None and not 0 <= self.aux_k <= self.d_sae:
            raise ValueError(f"sae.aux_k is {self.aux_k} but must lie in 0..{self.d_sae} (sae.d_sae), 0 being off.")
        ends = self.prefixes
        if ends is not None and (list(ends) != sorted({*ends}) or not ends or ends[-1] != self.d_sae):
            raise ValueError(
                f"sae.prefixes is {list(ends)} but must rise strictly from at least 1 to {self.d_sae} (sae.d_sae)."
            )
