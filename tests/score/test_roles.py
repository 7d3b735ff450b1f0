from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.config import PipelineConfig, parse_config
from tasks.activations.multi_hook import open_split
from tasks.activations.writer import Rows
from tasks.score.directions import directions
from tasks.score.rebuilt import Rebuilt
from tasks.score.roles import Roles, roles_of
from tasks.score.stats import ReconstructionSums
from tests.score.conftest import MakeSAE
from tests.stored import store_hooks

HOOKS = ["early", "late"]


def config(**train: Any) -> PipelineConfig:
    return parse_config({"text": {"source": "unused.txt"}, "harvest": {"hooks": HOOKS}, "train": train})


def rows(width: int, size: float, n: int = 60) -> Rows:
    rng = np.random.default_rng(width)
    activation = (rng.standard_normal((n, width)) * size + size).astype(np.float32)
    return Rows(activation, np.arange(n, dtype=np.int32), np.arange(n) // 4, (np.arange(n) % 4).astype(np.int32))


@pytest.fixture
def activations(tmp_path: Path) -> str:
    """The late hook varies a hundred times as much as the early one."""
    both = {"early": rows(3, 1.0), "late": rows(5, 10.0)}
    return store_hooks(str(tmp_path / "activations"), {hook: ([found], [found]) for hook, found in both.items()})


def roles(activations: str, **train: Any) -> Roles:
    settings = config(**train)
    return roles_of(settings.roles, open_split(activations, settings.roles.all, "train"))


def test_an_sae_of_one_hook_reads_and_rebuilds_all_columns(activations: str) -> None:
    found = roles(activations, hook="late")
    assert (found.kind, found.inputs, found.outputs) == ("sae", ("late",), ("late",))
    assert (found.reads, found.rebuilds, found.parts, found.scale) == (slice(None), slice(None), (slice(None),), None)


def test_a_transcoder_reads_the_first_columns_and_rebuilds_the_last(activations: str) -> None:
    found = roles(activations, hook="late", target_hook="early")
    assert (found.kind, found.inputs, found.outputs) == ("transcoder", ("late",), ("early",))
    assert (found.reads, found.rebuilds, found.parts, found.scale) == (slice(0, 5), slice(5, 8), (slice(0, 3),), None)


def test_a_crosscoders_hooks_are_scaled_to_weigh_by_their_widths(activations: str) -> None:
    found = roles(activations, hooks=["early", "late"])
    assert found.kind == "crosscoder"
    assert (found.reads, found.rebuilds, found.parts) == (slice(0, 8), slice(0, 8), (slice(0, 3), slice(3, 8)))
    assert found.scale is not None
    assert float(np.exp(np.log(found.scale).mean())) == pytest.approx(1)
    joined = open_split(activations, HOOKS, "train").shard(0).activation * found.scale
    spread = np.square(joined - joined.mean(0)).mean(0)
    assert spread[:3].mean() == pytest.approx(spread[3:].mean(), rel=1e-5)


def test_figures_of_a_crosscoder_are_those_of_its_hooks_weighed_by_width(activations: str) -> None:
    found = roles(activations, hooks=HOOKS)
    x = open_split(activations, HOOKS, "train").shard(0).activation
    x_hat = (x + np.random.default_rng(0).standard_normal(x.shape)).astype(np.float32)
    sums = Rebuilt.of(x[:40], x_hat[:40], [1e9, 1e9], found) + Rebuilt.of(x[40:], x_hat[40:], [1e9, 1e9], found)
    alone = [ReconstructionSums.of(x[:, part].astype(float), x_hat[:, part].astype(float)) for part in found.parts]
    assert [hook.fvu for hook in sums.by_hook] == pytest.approx([hook.fvu for hook in alone])
    assert sums.every.fvu == pytest.approx((3 * alone[0].fvu + 5 * alone[1].fvu) / 8, rel=1e-5)


def test_a_row_is_of_high_norm_if_it_is_at_any_hook() -> None:
    x = np.array([[1, 0, 1, 0], [9, 0, 1, 0], [1, 0, 9, 0], [1, 0, 1, 0]], np.float32)
    several = Roles(kind="crosscoder", parts=(slice(0, 2), slice(2, 4)), scale=np.ones(4))
    found = Rebuilt.of(x, x + 1, [1.0, 1.0], several)
    assert (found.every.x.count, found.usual.x.count) == (4, 2)
    assert Rebuilt.of(x, x + 1, [2.0], Roles()).by_hook == ()


def test_norm_shares_tell_at_which_hook_a_latent_writes(make_sae: MakeSAE, activations: str) -> None:
    sae, found = make_sae(d_in=8), roles(activations, hooks=HOOKS)
    sae.W_dec[0, :3] = 0
    sae.W_dec[1] = 0
    shares = directions(sae, found).norm_shares
    assert shares is not None
    assert shares[0].tolist() == [0, 1]
    assert shares[1].tolist() == [0, 0]
    torch.testing.assert_close(shares[2:].sum(1), torch.ones(len(shares) - 2))
    norms = [float((sae.W_dec[2] * torch.tensor(found.scale).float())[part].norm()) for part in found.parts]
    assert shares[2].tolist() == pytest.approx([norms[0] / sum(norms), norms[1] / sum(norms)])


def test_tied_weights_of_a_crosscoder_are_found_tied_behind_its_scaling(make_sae: MakeSAE, activations: str) -> None:
    sae, found = make_sae(d_in=8), roles(activations, hooks=HOOKS)
    assert found.scale is not None
    sae.W_dec[:] = torch.nn.functional.normalize(sae.W_dec, dim=1) / torch.tensor(found.scale).float()
    sae.W_enc[:] = (sae.W_dec * torch.tensor(found.scale).float() ** 2).T
    told = directions(sae, found)
    torch.testing.assert_close(told.cosine, torch.ones(sae.d_sae))
    torch.testing.assert_close(told.norm, torch.ones(sae.d_sae))


def test_encoder_and_decoder_of_a_transcoder_are_not_compared(make_sae: MakeSAE, activations: str) -> None:
    sae = make_sae(d_in=5, d_out=3)
    told = directions(sae, roles(activations, hook="late", target_hook="early"))
    assert (told.cosine, told.norm_shares) == (None, None)
    torch.testing.assert_close(told.norm, sae.W_dec.norm(dim=1))
