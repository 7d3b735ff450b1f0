"""The sparsity coefficient is found by aiming at k active latents."""

import math

import pytest
import torch

from tasks.sae.architectures.base import StepBatch
from tasks.sae.architectures.l0_controller import DAMPING, HELD_FROM, LARGEST_EXCESS, LARGEST_GAIN, controller_buffers, steer
from tasks.sae.architectures.names import NAMES, describe
from tasks.sae.architectures.registry import architecture
from tasks.sae.config import SAEConfig
from tasks.sae.scaling import Scaling


def batch(buffers: dict[str, torch.Tensor], **at: float) -> StepBatch:
    nothing = torch.zeros(1)
    return StepBatch(raw=nothing[None], scaling=Scaling(nothing, nothing), dead=nothing.bool(), buffers=buffers, **at)


def run(response: float, k: int, n_steps: int = 1000, first: float = 250.0, lag: float = 0.03) -> dict[str, torch.Tensor]:
    """Steer a process whose l0 follows coefficient^-response, about 30 steps late."""
    buffers, log_l0 = controller_buffers(0.5), math.log(first)
    for step in range(n_steps):
        at = {"sparsity": min(1.0, step / n_steps / 0.3), "progress": step / n_steps, "n_steps": n_steps}
        steer(batch(buffers, **at), torch.tensor(math.exp(log_l0)), k)
        wanted = math.log(first) - response * math.log(float(buffers["coefficient"]) / 0.5)
        log_l0 += lag * (wanted - log_l0)
    return buffers


@pytest.mark.parametrize(("response", "n_steps"), [(0.5, 1000), (1.0, 1000), (2.0, 1000), (1.0, 5000)])
@pytest.mark.parametrize("k", [4, 32])
def test_l0_ends_at_k_whatever_the_coefficient_does_to_it(response: float, n_steps: int, k: int) -> None:
    assert float(run(response, k, n_steps)["l0"]) == pytest.approx(k, rel=0.05)


def test_more_active_latents_than_wanted_raise_the_coefficient_and_fewer_lower_it() -> None:
    for l0, sign in ((80.0, 1), (8.0, 0), (1.0, -1), (0.0, -1)):
        buffers = controller_buffers(0.5) | {
            "first_l0": torch.tensor([100.0]).double(),
            "l0": torch.tensor([l0 or 1e-9]).double(),
        }
        steer(batch(buffers, progress=0.7), torch.tensor(l0), 8)
        moved = float((buffers["coefficient"] / 0.5).log())
        assert (moved > 1e-9) - (moved < -1e-9) == sign
        assert abs(moved) <= (LARGEST_GAIN + DAMPING) * LARGEST_EXCESS * 1.001


def test_while_the_sparsity_warms_up_the_first_steps_l0_is_aimed_at() -> None:
    buffers = controller_buffers(0.5)
    for _ in range(5):
        steer(batch(buffers, sparsity=0.0), torch.tensor(300.0), 8)
    assert float(buffers["coefficient"]) == pytest.approx(0.5)


def test_fewer_than_aimed_at_so_far_but_more_than_k_leave_the_coefficient() -> None:
    buffers = controller_buffers(0.5)
    for l0, sparsity in ((300.0, 0.0), (40.0, 0.0), (20.0, 0.0)):
        steer(batch(buffers, sparsity=sparsity), torch.tensor(l0), 8)
    assert float(buffers["coefficient"]) == 0.5


def test_near_the_end_the_coefficient_is_held() -> None:
    buffers = controller_buffers(0.5)
    for progress in (HELD_FROM, 0.999):
        steer(batch(buffers, progress=progress), torch.tensor(300.0), 8)
    assert float(buffers["coefficient"]) == 0.5


AIMS_BY_ITS_LOSS = "jumprelu_l0"
"""Its loss asks for k latents itself, and its coefficient only says how firmly."""


def steered_by(arch: str) -> str | None:
    """The setting that is looked for where it is left empty: of what aims at k, the coefficient that has no default."""
    if describe(arch).k != "aim" or arch == AIMS_BY_ITS_LOSS:
        return None
    settings = [name for name in describe(arch).settings if name.endswith("_coefficient")]
    (found,) = [name for name in settings if getattr(SAEConfig(), name) is None]
    return found


@pytest.mark.parametrize("arch", NAMES)
def test_only_a_coefficient_that_is_left_empty_is_steered(arch: str) -> None:
    kind, setting = architecture(arch), steered_by(arch)
    assert kind.steers(SAEConfig(arch=arch)) == (setting is not None)
    assert ("coefficient" in kind.buffers(SAEConfig(arch=arch))) == (setting is not None)
    given = SAEConfig(arch=arch, **({} if setting is None else {setting: 1.0}))
    assert not kind.steers(given)
    assert "coefficient" not in kind.buffers(given)


def test_each_penalty_is_looked_for_by_some_architecture() -> None:
    assert {steered_by(arch) for arch in NAMES} >= {"l1_coefficient", "l0_coefficient", "tanh_coefficient"}
