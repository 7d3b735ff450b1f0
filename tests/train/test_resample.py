"""Dead latents drawn anew, as https://transformer-circuits.pub/2023/monosemantic-features says."""

import pytest
import torch
from torch import Tensor

from tasks.sae.architectures.base import StepBatch
from tasks.sae.config import SAEConfig
from tasks.sae.mesh import OneProcess
from tasks.sae.scaling import Scaling
from tasks.train.config import TrainConfig
from tasks.train.plan import Plan, plan
from tasks.train.resample import resample
from tasks.train.train_state import TrainState, initial_state

D_IN, D_SAE, DEAD = 6, 24, torch.arange(24) < 10


def rows() -> Tensor:
    return torch.randn(64, D_IN, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def planned() -> Plan:
    return plan(SAEConfig(arch="l1_2023", d_sae=D_SAE), TrainConfig(tokens=6400, batch_tokens=64, lanes=4), D_IN)


def resampled(planned: Plan, raw: Tensor, step: int = 20) -> TrainState:
    state = initial_state(planned, rows())
    state.step = step
    state.silent[DEAD] = 10_000
    for moment in state.moments:
        moment.flat.fill_(3.0)
    state.parameters.encoder[:12] *= 5  # of the live ones too, so that their mean norm is not 1
    resample(
        state, StepBatch(raw=raw, scaling=Scaling(torch.zeros(D_IN), torch.ones(D_IN)), dead=DEAD), planned, OneProcess()
    )
    return state


def test_new_latents_have_a_rows_direction_and_a_fifth_of_the_live_encoders_norm(planned: Plan) -> None:
    p = resampled(planned, rows()).parameters
    directions = torch.nn.functional.normalize(rows())
    assert torch.allclose((p.W_dec[DEAD] @ directions.T).amax(1), torch.ones(10), atol=1e-6)
    assert torch.allclose(p.W_dec[DEAD].norm(dim=1), torch.ones(10))
    size = 0.2 * p.encoder[~DEAD].norm(dim=1).mean()
    assert torch.allclose(p.encoder[DEAD], p.W_dec[DEAD] * size, rtol=1e-4, atol=1e-6)
    assert not p.b_enc[DEAD].any()


def test_moments_and_silence_of_new_latents_start_from_nothing_and_others_stay(planned: Plan) -> None:
    state = resampled(planned, rows())
    for moment in state.moments:
        for part in (moment.encoder, moment.W_dec, moment.b_enc):
            assert not part[DEAD].any()
            assert (part[~DEAD] == 3).all()
        assert (moment.b_dec == 3).all()
    assert not state.silent[DEAD].any()


def test_rows_are_drawn_alike_in_whatever_order_workers_hold_them(planned: Plan) -> None:
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    one, other = resampled(planned, rows()), resampled(planned, rows()[order])
    assert torch.allclose(one.parameters.flat, other.parameters.flat, atol=1e-6)
    later = resampled(planned, rows(), step=21)
    assert not torch.allclose(one.parameters.flat, later.parameters.flat, atol=1e-3)


def test_badly_rebuilt_rows_are_drawn_and_rows_of_zeros_never(planned: Plan) -> None:
    raw = 1e-3 * rows()
    raw[7] *= 1e5
    raw[8] = 0.0
    found = resampled(planned, raw).parameters.W_dec[DEAD]
    assert torch.allclose(found, torch.nn.functional.normalize(raw[7:8]).expand(10, -1), atol=1e-5)


def test_where_all_rows_are_zero_nothing_is_drawn(planned: Plan) -> None:
    state = resampled(planned, torch.zeros(64, D_IN))
    assert torch.isfinite(state.parameters.flat).all()
    assert int(state.silent.max()) == 10_000


def test_it_happens_four_times_and_never_near_the_end(planned: Plan) -> None:
    assert sorted(planned.resample_at) == [20, 35, 50, 65]
