"""The survey's sums computed on a device: what ``rebuilt.py`` and ``stats.py`` compute in numpy, in float64 too.

No sum is left to atomic additions, whose order changes, so equal rows give equal bits from run to run.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from tasks.encode.codes import TensorCodes
from tasks.score.rebuilt import Rebuilt
from tasks.score.roles import Roles
from tasks.score.stats import HIGH_NORM_MULTIPLE, LatentSums, ReconstructionSums, Spread


def rebuilt_sums(
    target: Float32[Tensor, "n d_out"], rebuilt: Float32[Tensor, "n d_out"], median_norms: Sequence[float], roles: Roles
) -> Rebuilt:
    """The sums of rows of the target and of what is rebuilt of them."""
    x, x_hat = target.double(), rebuilt.double()
    usual = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for part, median in zip(roles.parts, median_norms, strict=True):
        usual &= torch.linalg.vector_norm(x[:, part], dim=1) <= HIGH_NORM_MULTIPLE * median
    several = len(roles.parts) > 1
    by_hook = tuple(reconstruction_sums(x[:, part], x_hat[:, part]) for part in roles.parts) if several else ()
    if roles.scale is not None:
        scale = torch.from_numpy(roles.scale).to(x.device)
        x, x_hat = x * scale, x_hat * scale
    return Rebuilt(reconstruction_sums(x, x_hat), reconstruction_sums(x[usual], x_hat[usual]), by_hook)


def reconstruction_sums(x: Float64[Tensor, "n d_in"], x_hat: Float64[Tensor, "n d_in"]) -> ReconstructionSums:
    """The sums of rows and their reconstructions, copied from the device at once."""
    x_square, hat_square, dot = x.square().sum(dim=1), x_hat.square().sum(dim=1), (x * x_hat).sum(dim=1)
    norm, hat_norm = x_square.sqrt(), hat_square.sqrt()
    mean = x.sum(dim=0) / max(1, len(x))
    sums = torch.stack(
        [
            (x - mean).square().sum(),
            (x - x_hat).square().sum(),
            _quotient(dot, norm * hat_norm).sum(),
            _quotient(hat_norm, norm).sum(),
            hat_square.sum(),
            dot.sum(),
        ]
    )
    found = torch.cat([sums, mean]).cpu().numpy()
    deviation, *others = found[:6].tolist()
    return ReconstructionSums(Spread(len(x), found[6:], deviation), *others)


class LatentTally:
    """How often and how strongly each latent fires, added up on a device."""

    def __init__(self, d_sae: int, device: torch.device) -> None:
        self._n_tokens = 0
        self._n_active = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self._total = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self._largest = torch.zeros(d_sae, device=device)
        self._tokens_by_l0 = torch.zeros(d_sae + 1, dtype=torch.int64, device=device)

    def add(self, codes: TensorCodes) -> None:
        """Count some tokens' codes."""
        self._n_tokens += len(codes)
        self._n_active += torch.bincount(codes.latents, minlength=len(self._n_active))
        # On a GPU this sorts by latent and adds in that order.
        self._total.index_put_((codes.latents,), codes.values.double(), accumulate=True)
        self._largest.scatter_reduce_(0, codes.latents, codes.values, "amax")
        self._tokens_by_l0 += torch.bincount(codes.counts, minlength=len(self._tokens_by_l0))

    def sums(self) -> LatentSums:
        """Of all tokens that were counted."""
        return LatentSums(
            self._n_tokens, *(_array(part) for part in (self._n_active, self._total, self._largest, self._tokens_by_l0))
        )


def _quotient(numerator: Float64[Tensor, "n"], denominator: Float64[Tensor, "n"]) -> Float64[Tensor, "n"]:
    """0 where it is not defined."""
    return torch.where(denominator > 0, numerator / denominator, 0.0)


def _array(part: Tensor) -> Any:
    return part.cpu().numpy()
