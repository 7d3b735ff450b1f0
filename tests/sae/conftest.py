from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tasks.sae import SAEConfig, SparseAutoencoder
from tasks.sae.parameters import Parameters, zeros
from tasks.sae.scaling import Scaling, fold


def _random_parameters() -> Parameters:
    parameters = zeros(8, 32)
    parameters.flat.normal_(generator=torch.Generator().manual_seed(0))
    return parameters


def _raw_rows() -> Tensor:
    return torch.linspace(-20, 20, 8) + 3 * torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


@dataclass
class Tiny:
    """An SAE of random weights, d_in 8 and d_sae 32, behind a scaling, and 64 raw rows with a large mean."""

    parameters: Parameters = field(default_factory=_random_parameters)
    mean: Tensor = field(default_factory=lambda: torch.linspace(-20, 20, 8))
    scale: float = 0.3
    raw: Tensor = field(default_factory=_raw_rows)

    def sae(self, arch: str = "topk") -> SparseAutoencoder:
        config = SAEConfig(arch=arch, d_sae=32, k=4)  # type: ignore[arg-type]
        return SparseAutoencoder(config, fold(self.parameters, Scaling(self.mean, self.scale)))


@pytest.fixture
def tiny() -> Tiny:
    return Tiny()
