"""What an SAE is: its architecture and sizes. A plain dataclass, so that the maths needs nothing but torch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

Architecture = Literal["topk", "l1", "dense"]


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """Architecture and sizes of a sparse autoencoder.

    Raises:
        ValueError: a value or a combination of values is impossible; the message says what is allowed.
    """

    __pydantic_config__: ClassVar = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
        "field_title_generator": lambda name, _: name,
    }

    arch: Architecture = "topk"
    """topk: keep the k largest pre-activations. l1: ReLU with L1 on latents weighted by decoder row norms.
    dense: a plain autoencoder of the same parts without sparsity, for comparison."""
    d_in: int | None = None
    """Width of the activations, in features. Leave empty to take it from the hook; set it to be told when it differs."""
    d_sae: int = 4608
    """Number of latents, usually 4 to 64 times d_in."""
    k: int = 32
    """Latents kept per token (topk)."""
    aux_k: int | None = None
    """Dead latents that rebuild the residual (topk). Empty: twice k, at most d_sae. 0 turns AuxK off."""
    aux_coefficient: float = 1 / 32
    """Weight of the AuxK loss (topk)."""
    l1_coefficient: float = 5.0
    """Weight of the sparsity term (l1), for activations scaled so that E||x||^2 = d_in."""

    def __post_init__(self) -> None:
        for name in ("d_in", "d_sae", "k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"sae.{name} is {value} but must be at least 1.")
        if self.arch == "topk" and self.k > self.d_sae:
            raise ValueError(
                f"sae.k is {self.k} but must lie in 1..{self.d_sae} (sae.d_sae). Lower sae.k or raise sae.d_sae."
            )
        if self.aux_k is not None and not 0 <= self.aux_k <= self.d_sae:
            raise ValueError(f"sae.aux_k is {self.aux_k} but must lie in 0..{self.d_sae} (sae.d_sae), 0 being off.")
        for name in ("aux_coefficient", "l1_coefficient"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"sae.{name} is {getattr(self, name)} but must be a finite number, at least 0.")
