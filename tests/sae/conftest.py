from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tasks.sae import SAEConfig, SparseAutoencoder
from tasks.sae.architectures.registry import architecture, layout
from tasks.sae.parameters import Parameters, zeros
from tasks.sae.scaling import Scaling, fold, folding


def random_parameters(
    config: SAEConfig, d_in: int, d_out: int | None = None, dtype: torch.dtype = torch.float32
) -> Parameters:
    """Normal weights; thresholds of about 1."""
    parameters = zeros(layout(config, d_in, d_out), dtype)
    draw = torch.randn(len(parameters.flat), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameters.flat.copy_(draw)
    for tensor in parameters.extra.values():
        tensor.mul_(0.3)
    return parameters


def _raw_rows() -> Tensor:
    return torch.linspace(-20, 20, 8) + 3 * torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


@dataclass
class Tiny:
    """An SAE of random weights, d_in 8 and d_sae 32, behind a scaling, and 64 raw rows with a large mean."""

    mean: Tensor = field(default_factory=lambda: torch.linspace(-20, 20, 8))
    scale: Tensor = field(default_factory=lambda: torch.full((8,), 0.3))
    raw: Tensor = field(default_factory=_raw_rows)

    @property
    def scaling(self) -> Scaling:
        return Scaling(self.mean, self.scale)

    def config(self, arch: str = "topk") -> SAEConfig:
        return SAEConfig(arch=arch, d_sae=32, k=4)

    def parameters(self, arch: str = "topk") -> Parameters:
        return random_parameters(self.config(arch), 8)

    def buffers(self, arch: str = "topk") -> dict[str, Tensor]:
        return {name: tensor + 0.7 for name, tensor in architecture(arch).buffers(self.config(arch)).items()}

    def sae(self, arch: str = "topk") -> SparseAutoencoder:
        parameters = self.parameters(arch)
        extra = architecture(arch).finished(parameters, self.buffers(arch), folding(parameters, self.scaling))
        return SparseAutoencoder(self.config(arch), fold(parameters, self.scaling, extra=extra))


@pytest.fixture
def tiny() -> Tiny:
    return Tiny()
