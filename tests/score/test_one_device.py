"""Nothing of what works on a GPU mixes tensors of two devices, as far as a machine without one can tell.

torch's fake tensors have no numbers, but a device, and refuse what that device would refuse: operations on tensors of two of
them. Here it is the device "meta", which is not the CPU. What is read back is 1, or zeros.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from tasks.encode import chunks
from tasks.encode.cosines import largest_cosines
from tasks.sae import SAEConfig, SparseAutoencoder
from tasks.sae.architectures.registry import architecture
from tasks.sae.scaling import Weights
from tasks.score.baselines import Fit, baselines, fit
from tasks.score.device_evidence import TensorHits, _Sampled, _Strongest
from tasks.score.device_sums import LatentTally, reconstruction_sums
from tasks.score.directions import directions
from tasks.score.linear import linear_baselines
from tasks.score.logits import Unembedding, neighbours, promoted_and_suppressed
from tasks.score.roles import Roles
from tasks.score.splice import splice
from tests.score.conftest import D_IN, D_SAE

OTHER = torch.device("meta")
N = 50


@pytest.fixture
def elsewhere(unchecked: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors may be made on another device meanwhile."""
    for arch in ("topk", "l1"):
        architecture(arch)  # imported before: it makes tensors
    monkeypatch.setattr(Tensor, "__float__", lambda _: 1.0)
    monkeypatch.setattr(Tensor, "numpy", lambda found: np.zeros([int(size) for size in found.shape]))
    with FakeTensorMode(shape_env=ShapeEnv(allow_scalar_outputs=True, allow_dynamic_output_shape_ops=True)):
        yield


def rows(width: int = D_IN, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(N, width, dtype=dtype, device=OTHER)


def sae(arch: str = "topk") -> SparseAutoencoder:
    encoder, decoder = torch.zeros(D_IN, D_SAE, device=OTHER), torch.zeros(D_SAE, D_IN, device=OTHER)
    weights = Weights(encoder, torch.zeros(D_SAE, device=OTHER), decoder, torch.zeros(D_IN, device=OTHER))
    return SparseAutoencoder(SAEConfig(arch=arch, d_in=D_IN, d_sae=D_SAE, k=3), weights).requires_grad_(requires_grad=False)


def whole_numbers(n: int = N) -> Tensor:
    return torch.zeros(n, dtype=torch.int64, device=OTHER)


@pytest.mark.usefixtures("elsewhere")
def test_tensors_of_two_devices_would_be_refused() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        rows() + torch.zeros(N, D_IN)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("arch", ["topk", "l1"])
def test_encoding_and_decoding(arch: str) -> None:
    codes, decode = chunks._encoded(sae(arch), rows())
    assert {part.device.type for part in (codes.counts, codes.latents, codes.values, decode())} == {"meta"}


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("kind", [_Strongest, _Sampled])
def test_evidence(kind: Any) -> None:
    hits = TensorHits(whole_numbers(), torch.zeros(N, device=OTHER), whole_numbers(), whole_numbers())
    lists = kind(4, D_SAE, OTHER)
    seen = hits.where(lists._may_enter(hits))
    ordered = lists._in_order(TensorHits.joined([lists._hits, hits]))
    lists._note_last(ordered)
    assert {part.device.type for part in (seen.row, ordered.row, ordered.value)} == {"meta"}


@pytest.mark.usefixtures("elsewhere")
def test_sums() -> None:
    codes, _ = chunks._encoded(sae(), rows())
    LatentTally(D_SAE, OTHER).add(codes)
    assert reconstruction_sums(rows(dtype=torch.float64), rows(dtype=torch.float64)).x.count == N


def fitted(width: int) -> Fit:
    square = torch.zeros(width, width, dtype=torch.float64, device=OTHER)
    return Fit(square[0], square, torch.zeros(20, width, device=OTHER))


def scaled_baselines() -> None:
    scale = torch.ones(D_IN, dtype=torch.float64, device=OTHER)
    baselines(sae(), fitted(D_IN), rows(), 3, scale)


class SmallModel(torch.nn.Module):
    """As much of a language model as is asked of one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(30, D_IN, device=OTHER)
        self.layer = torch.nn.Linear(D_IN, D_IN, device=OTHER)
        self.head = torch.nn.Linear(D_IN, 30, device=OTHER)

    def forward(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.layer(self.embedding(input_ids))))


def spliced() -> None:
    ids = torch.zeros(3, 12, dtype=torch.int64, device=OTHER)
    found = splice(SmallModel(), "layer", sae(), torch.zeros(D_IN, device=OTHER), ids, ids == 0)
    assert found is not None and found.tokens == 33


WORK: dict[str, Callable[[], Any]] = {
    "fit": lambda: fit([rows(), rows()], 2 * N, 10),
    "baselines": scaled_baselines,
    "linear baselines": lambda: linear_baselines(sae(), fitted(2 * D_IN), rows(2 * D_IN), 3),
    "neighbours": lambda: neighbours(rows(), 3),
    "promoted": lambda: promoted_and_suppressed(rows(), Unembedding(rows(), rows()[0], centred=True), 3),
    "stability": lambda: largest_cosines(rows(), rows()),
    "directions": lambda: directions(sae(), Roles(kind="crosscoder", scale=np.ones(D_IN))),
    "splice": spliced,
}


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", WORK)
def test_what_else_scoring_does(name: str) -> None:
    WORK[name]()
