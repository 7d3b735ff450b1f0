"""Steps at few latents only, against the dense steps of the same architectures, in float64."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from tasks.sae.architectures.base import StepBatch, StepSums
from tasks.sae.architectures.names import NAMES
from tasks.sae.architectures.registry import architecture, layout
from tasks.sae.config import SAEConfig
from tasks.sae.mesh import Mesh, OneProcess, optimizer_shard
from tasks.sae.parameters import Parameters, view, zeros
from tasks.train.config import TrainConfig
from tasks.train.plan import plan
from tasks.train.step import train_step
from tasks.train.train_state import state_from
from tests.sae.conftest import random_parameters
from tests.sae.test_gradients import D_IN, D_OUT, D_SAE, N, dead_mask, identity, random_rows
from tests.sae.threads import in_mesh

ARCHS = [name for name in NAMES if getattr(architecture(name), "active_below", 0) > 0]
JUMPS = ["jumprelu", "jumprelu_l0"]
OF_THE_PAGE = {"l1", "l1_2023", "p_anneal", "gated", *JUMPS}
"""Those of which README.md says that they take the path at few latents."""

each = pytest.mark.parametrize("arch", ARCHS)


def test_those_that_the_page_names_have_a_sparse_step() -> None:
    assert set(ARCHS) >= OF_THE_PAGE


def settings(arch: str, **others: object) -> SAEConfig:
    return SAEConfig(
        **{"arch": arch, "d_sae": D_SAE, "k": 4, "l1_coefficient": 0.7, "l0_coefficient": 0.3, "bandwidth": 0.8} | others
    )


@dataclass
class Problem:
    """One step to be done in two ways."""

    config: SAEConfig
    parameters: Parameters
    rows: Tensor
    progress: float = 0.0
    buffers: dict[str, Tensor] = field(default_factory=dict)

    @property
    def pre_acts(self) -> Tensor:
        return self.rows[:, :D_IN] @ self.parameters.encoder.T + self.parameters.b_enc

    @property
    def threshold(self) -> Tensor:
        return self.parameters.extra["log_threshold"].exp()

    def step(
        self, density: float, rows: Tensor | None = None, mesh: Mesh | None = None, bf16: bool = False
    ) -> tuple[StepSums, Tensor, dict[str, Tensor]]:
        """By the sparse path at density 0, by the dense one at 1: sums, gradient, and buffers after."""
        kind, sizes = architecture(self.config.arch), layout(self.config, D_IN, len(self.parameters.b_dec))
        out = view(torch.full_like(self.parameters.flat, torch.nan), sizes)  # every number has to be written
        buffers = {name: buffer.clone() for name, buffer in (kind.buffers(self.config) | self.buffers).items()}
        buffers["density"].fill_(density)
        rows = self.rows if rows is None else rows
        scaling = identity(rows.shape[1], rows.dtype)
        at = {"sparsity": 0.7, "progress": self.progress, "bf16": bf16, "buffers": buffers}
        batch = StepBatch(raw=rows, scaling=scaling, dead=dead_mask(0), **at)
        mesh = mesh or OneProcess()
        sums, by_latent = kind.gradients(self.config, self.parameters, out, batch, mesh)
        assert (by_latent is None) == (density == 1.0)
        if by_latent is not None:  # the gradients of this worker's latents
            low, high = optimizer_shard(mesh.data, len(out.b_enc))
            encoder, W_dec, b_enc = (tensor[low:high] for tensor in (out.encoder, out.W_dec, out.b_enc))
            by_latent.write(self.parameters.W_dec[low:high], replace(out, encoder=encoder, W_dec=W_dec, b_enc=b_enc))
            mesh.data.all_gather_in_place([out.encoder, out.W_dec, out.b_enc])
        return sums, out.flat, buffers

    def assert_both_ways_are_the_same(self) -> None:
        assert_same(self.step(0.0), self.step(1.0))


def assert_same(
    ours: tuple[StepSums, Tensor, dict[str, Tensor]], theirs: tuple[StepSums, Tensor, dict[str, Tensor]]
) -> None:
    assert float((ours[1] - theirs[1]).norm()) <= 1e-10 * float(theirs[1].norm())
    for name in ("loss", "squared_error", "n_active"):
        assert float(getattr(ours[0], name)) == pytest.approx(float(getattr(theirs[0], name)), rel=1e-10)
    assert torch.equal(ours[0].fired, theirs[0].fired)
    assert ours[0].n_rows == theirs[0].n_rows == N
    assert ours[2].keys() == theirs[2].keys()
    for name, buffer in ours[2].items():
        assert torch.allclose(buffer, theirs[2][name], rtol=1e-10), name


def random_problem(arch: str, d_out: int = D_IN, bias: float = 0.0, progress: float = 0.0, **others: object) -> Problem:
    config = settings(arch, **others)
    parameters = random_parameters(config, D_IN, d_out, torch.float64)
    parameters.b_enc.sub_(bias)
    return Problem(config, parameters, random_rows(width=D_IN if d_out == D_IN else D_IN + d_out), progress)


@each
@pytest.mark.parametrize(("d_out", "skip"), [(D_IN, False), (D_OUT, False), (D_OUT, True)])
@pytest.mark.parametrize("bias", [0.0, 4.0, 100.0])
def test_a_step_at_few_latents_equals_the_dense_one(arch: str, d_out: int, skip: bool, bias: float) -> None:
    random_problem(arch, d_out, bias, skip=skip).assert_both_ways_are_the_same()


@each
def test_the_same_with_rows_of_zeros_and_rows_that_no_latent_fires_on(arch: str) -> None:
    problem = random_problem(arch, bias=3.0)
    problem.rows[:8] = 0.0
    fires_on = (problem.pre_acts > 0).any(1)
    assert 0 < int(fires_on.sum()) < N
    assert not fires_on[:8].all()
    problem.assert_both_ways_are_the_same()


@each
@pytest.mark.parametrize("bandwidth", [1.0, 4.0])
def test_the_same_with_pre_activations_exactly_on_thresholds_and_on_edges_of_windows(arch: str, bandwidth: float) -> None:
    problem = random_problem(arch, bandwidth=bandwidth)
    for tensor in (problem.rows, problem.parameters.encoder, problem.parameters.b_enc):
        tensor.mul_(2).round_().div_(2)  # so that products are exact
    for name, tensor in problem.parameters.extra.items():
        tensor.fill_(0.0 if name == "log_threshold" else 0.25)
    edges = (0.0, 1.0, 1 - bandwidth / 2, 1 + bandwidth / 2)
    assert all((problem.pre_acts == edge).any() for edge in edges)
    problem.assert_both_ways_are_the_same()


@pytest.mark.parametrize("arch", JUMPS)
def test_the_same_with_negative_pre_activations_in_the_windows_of_small_thresholds(arch: str) -> None:
    problem = random_problem(arch, bandwidth=1.5)
    problem.parameters.extra["log_threshold"].sub_(2.0)
    assert float(problem.threshold.max()) < 0.75
    z = problem.pre_acts
    assert ((z < 0) & (z > problem.threshold - 0.75)).sum() > 10
    problem.assert_both_ways_are_the_same()


@pytest.mark.parametrize("progress", [0.1, 0.35, 0.99])
def test_the_same_where_p_falls_and_after(progress: float) -> None:
    problem = random_problem("p_anneal", progress=progress)
    problem.assert_both_ways_are_the_same()
    problem.buffers = problem.step(0.0)[2]
    assert float(problem.buffers["p"]) < 1
    problem.assert_both_ways_are_the_same()


@each
def test_the_same_with_a_coefficient_that_is_steered(arch: str) -> None:
    problem = random_problem(arch, l1_coefficient=None, l0_coefficient=None)
    assert ("coefficient" in problem.step(0.0)[2]) == architecture(arch).steers(problem.config)
    problem.assert_both_ways_are_the_same()


@each
def test_the_same_in_bfloat16_to_its_precision(arch: str) -> None:
    problem = random_problem(arch)
    problem.parameters = view(problem.parameters.flat.float(), layout(problem.config, D_IN))
    problem.rows = problem.rows.float()
    ways = [problem.step(density, bf16=True)[1] for density in (0.0, 1.0)]
    assert float(torch.cosine_similarity(*ways, dim=0)) > 0.999


@each
@pytest.mark.parametrize("density", [0.0, 1.0])
def test_two_workers_with_half_the_rows_each_get_the_gradient_of_one(arch: str, density: float) -> None:
    problem = random_problem(arch, bias=2.0, progress=0.2)
    halves = problem.rows.chunk(2)
    first, second = in_mesh(2, 1, lambda mesh: problem.step(density, halves[mesh.data.rank], mesh))
    assert torch.equal(first[1], second[1])
    assert_same(first, problem.step(density))


@each
def test_once_codes_are_sparse_the_next_step_is_too(arch: str) -> None:
    config, kind = settings(arch), architecture(arch)
    parameters = random_parameters(config, D_IN, None, torch.float64)
    parameters.b_enc.sub_(9.0)
    out, buffers = zeros(layout(config, D_IN), torch.float64), kind.buffers(config)
    batch = StepBatch(raw=random_rows(), scaling=identity(D_IN), dead=dead_mask(0), bf16=False, buffers=buffers)
    ways = [kind.gradients(config, parameters, out, batch, OneProcess())[1] is None for _ in range(2)]
    assert ways == [True, False]
    parameters.b_enc.add_(9.0)
    ways = [kind.gradients(config, parameters, out, batch, OneProcess())[1] is None for _ in range(2)]
    assert ways == [False, True]


@each
def test_a_run_that_changes_its_way_ends_where_it_would_have_ended(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, kind, ends = settings(arch, d_in=D_IN), architecture(arch), []
    resolved = plan(config, TrainConfig(tokens=N * 20, batch_tokens=N, lanes=1, workers=1, precision="fp32", lr=0.01), D_IN)
    for sparse_from in (10**6, 5):
        parameters = random_parameters(config, D_IN, None, torch.float64)
        parameters.W_dec.div_(parameters.W_dec.norm(dim=1, keepdim=True))
        state = state_from(parameters, resolved)
        for step in range(15):
            monkeypatch.setattr(kind, "active_below", 1.1 if step >= sparse_from else 1e-9)
            train_step(state, random_rows(seed=step), resolved, identity(D_IN), OneProcess())
        ends.append(state.parameters.flat)
    assert float((ends[0] - ends[1]).norm()) <= 1e-9 * float(ends[0].norm())
