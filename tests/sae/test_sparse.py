"""The sparse operations, compiled and in plain torch, against dense autograd and torch's Adam, in float64."""

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tasks.sae import kernels, reference, sparse
from tasks.sae.entries import AdamStep, Entries, Part, Rows
from tasks.sae.parameters import Layout, Parameters, zeros

N, D_IN, D_SAE, D_OUT, K = 24, 6, 40, 9, 5
WEIGHTS = {(D_SAE,): [0.3], (7, 20, D_SAE): [0.5, 0.25, 2.0]}

both = pytest.mark.parametrize("ops", [reference, kernels], ids=["plain", "compiled"])
prefixes = pytest.mark.parametrize("bounds", WEIGHTS)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_parameters(seed: int = 0) -> Parameters:
    parameters = zeros(Layout(D_IN, D_SAE, D_OUT), torch.float64)
    parameters.flat.copy_(randn(len(parameters.flat), seed=seed))
    return parameters


def tensors(parameters: Parameters) -> list[Tensor]:
    return [parameters.encoder, parameters.W_dec, parameters.b_enc]


def sparse_gradients(
    ops: ModuleType, parameters: Parameters, x: Tensor, target: Tensor, bounds: tuple[int, ...]
) -> tuple[Part, Rows]:
    pre_acts = torch.addmm(parameters.b_enc, x, parameters.encoder.T)
    entries = ops.select_top_k(pre_acts, K, torch.float64)
    weight = torch.tensor(WEIGHTS[bounds], dtype=torch.float64)
    rows = ops.decode_rows(target, entries, parameters.W_dec, weight, bounds)
    return Part(entries, rows.d_values, rows.output_gradient, x, bounds), rows


def dense_loss(parameters: list[Tensor], entries: Entries, x: Tensor, target: Tensor, bounds: tuple[int, ...]) -> Tensor:
    encoder, W_dec, b_enc = parameters
    active = torch.zeros(N, D_SAE, dtype=torch.bool)
    active[entries.rows.long(), entries.latents.long()] = True
    codes = torch.addmm(b_enc, x, encoder.T).where(active, 0.0)
    errors = [(target - codes[:, :end] @ W_dec[:end]).square().sum() for end in bounds]
    return sum((w * error for w, error in zip(WEIGHTS[bounds], errors, strict=True)), torch.zeros(()))


def assert_same(ours: Tensor, theirs: Tensor, tolerance: float = 1e-12) -> None:
    assert float((ours - theirs).norm()) <= tolerance * float(theirs.norm())


@both
@prefixes
def test_gradients_of_nested_prefixes_equal_dense_autograd(ops, bounds):
    parameters, x, target = random_parameters(), randn(N, D_IN, seed=1), randn(N, D_OUT, seed=2)
    part, rows = sparse_gradients(ops, parameters, x, target, bounds)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors(parameters)]
    loss = dense_loss(leaves, part.entries, x, target, bounds)
    out = random_parameters(seed=9)  # every number has to be overwritten
    ops.by_latent([part], (0, D_SAE), None).write(parameters.W_dec, out)
    assert float(rows.squared_error @ torch.tensor(WEIGHTS[bounds], dtype=torch.float64)) == pytest.approx(loss.item())
    for ours, theirs in zip(tensors(out), torch.autograd.grad(loss, leaves), strict=True):
        assert_same(ours, theirs)


@both
def test_the_residual_is_what_all_latents_leave_of_the_target(ops):
    parameters, x, target = random_parameters(), randn(N, D_IN, seed=1), randn(N, D_OUT, seed=2)
    part, rows = sparse_gradients(ops, parameters, x, target, (7, 20, D_SAE))
    codes = torch.zeros(N, D_SAE, dtype=torch.float64)
    codes[part.entries.rows.long(), part.entries.latents.long()] = part.entries.values
    assert_same(rows.residual(), target - codes @ parameters.W_dec)
    assert float(rows.squared_error[-1]) == pytest.approx(float(rows.residual().square().sum()))


@both
@pytest.mark.parametrize("same_x", [True, False])
def test_parts_add_up_and_radial_and_bias_add_multiples_of_decoder_rows_and_numbers(ops, same_x):
    parameters, x, target = random_parameters(), randn(N, D_IN, seed=1), randn(N, D_OUT, seed=2)
    first, rows = sparse_gradients(ops, parameters, x, target, (7, 20, D_SAE))
    second, _ = sparse_gradients(ops, parameters, x if same_x else x + 1, rows.residual(), (D_SAE,))
    radial, bias = randn(D_SAE, seed=3), randn(D_SAE, seed=4)
    together, apart = random_parameters(seed=9), [random_parameters(seed=9), random_parameters(seed=9)]
    ops.by_latent([first, second], (0, D_SAE), radial, bias).write(parameters.W_dec, together)
    for part, out in zip((first, second), apart, strict=True):
        ops.by_latent([part], (0, D_SAE), None).write(parameters.W_dec, out)
    assert_same(together.W_dec, apart[0].W_dec + apart[1].W_dec + radial[:, None] * parameters.W_dec)
    assert_same(together.encoder, apart[0].encoder + apart[1].encoder)
    assert_same(together.b_enc, apart[0].b_enc + apart[1].b_enc + bias)


@both
@pytest.mark.parametrize("unit_norm", [True, False])
def test_the_fused_update_is_adams_on_the_same_gradient(ops, unit_norm):
    ours, theirs = random_parameters(), random_parameters()
    for parameters in (ours, theirs):
        parameters.W_dec.div_(parameters.W_dec.norm(dim=1, keepdim=True))
    moments = zeros(Layout(D_IN, D_SAE, D_OUT), torch.float64), zeros(Layout(D_IN, D_SAE, D_OUT), torch.float64)
    optimizer = torch.optim.Adam(tensors(theirs), lr=0.05, betas=(0.8, 0.97), eps=1e-5)
    for step in range(1, 6):
        x, target, radial = randn(N, D_IN, seed=step), randn(N, D_OUT, seed=-step), randn(D_SAE, seed=10 + step)
        part, _ = sparse_gradients(ops, ours, x, target, (D_SAE,))
        by_latent = ops.by_latent([part], (0, D_SAE), radial, randn(D_SAE, seed=20 + step))
        settings = AdamStep(lr=0.05, betas=(0.8, 0.97), eps=1e-5, step=step, unit_norm=unit_norm)
        square = adam_by_torch(optimizer, by_latent, theirs, unit_norm)
        assert_same(by_latent.adam(ours, *moments, settings), square)
        for a, b in zip(tensors(ours), tensors(theirs), strict=True):
            assert_same(a, b, 1e-11)  # steps look at the parameters of the ones before


def adam_by_torch(
    optimizer: torch.optim.Adam, by_latent: sparse.ByLatent, parameters: Parameters, unit_norm: bool
) -> Tensor:
    """One step; the squared norm of its gradient."""
    gradient = random_parameters(seed=9)
    by_latent.write(parameters.W_dec, gradient)
    W_dec = parameters.W_dec
    if unit_norm:
        gradient.W_dec.sub_((gradient.W_dec * W_dec).sum(1, keepdim=True) * W_dec)
    for tensor, its_gradient in zip(tensors(parameters), tensors(gradient), strict=True):
        tensor.grad = its_gradient
    optimizer.step()
    if unit_norm:
        W_dec.div_(W_dec.norm(dim=1, keepdim=True))
    return torch.stack([tensor.square().sum() for tensor in tensors(gradient)]).sum()


@both
def test_latents_without_entries_move_on_by_their_momentum(ops):
    parameters, x, target = random_parameters(), randn(N, D_IN, seed=1), randn(N, D_OUT, seed=2)
    parameters.b_enc[3] = -1e4
    moments = random_parameters(seed=7), zeros(Layout(D_IN, D_SAE, D_OUT), torch.float64)
    before, part = parameters.encoder[3].clone(), sparse_gradients(ops, parameters, x, target, (D_SAE,))[0]
    settings = AdamStep(lr=0.05, betas=(0.9, 0.999), eps=1.0, step=1)
    pushed = -0.05 / (1 - 0.9) * 0.9 * moments[0].encoder[3]
    ops.by_latent([part], (0, D_SAE), None).adam(parameters, *moments, settings)
    assert_same(parameters.encoder[3] - before, pushed, 1e-10)


@both
def test_numbers_are_above_a_level_between_two_of_their_precision_or_on_one_of_them(ops):
    pre_acts = torch.tensor([[1.0, 1.0078125, -3.0, -0.0]], dtype=torch.bfloat16)
    found = {level: ops.select_above(pre_acts, level, torch.float32).latents.tolist() for level in (1.007, 1.0, 0.999)}
    assert found == {1.007: [1], 1.0: [1], 0.999: [0, 1]}
    found = {level: ops.select_above(pre_acts, level, torch.float32).latents.tolist() for level in (0.0, -0.1, -3.0, -3.1)}
    assert found == {0.0: [0, 1], -0.1: [0, 1, 3], -3.0: [0, 1, 3], -3.1: [0, 1, 2, 3]}


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_each_latent_may_have_a_level_of_its_own(ops, dtype):
    pre_acts = torch.tensor([[1.0, 1.0, -1.0, -1.0], [0.5, 2.0, 0.0, -0.5]], dtype=dtype)
    entries = ops.select_above(pre_acts, torch.tensor([0.5, 1.001, -1.0, -1.001]), torch.float64)
    assert [entries.latents[a:b].tolist() for a, b in ((0, 2), (2, 5))] == [[0, 3], [1, 2, 3]]
    assert entries.values.tolist() == [1.0, -1.0, 2.0, 0.0, -0.5]


@both
def test_columns_are_named_in_the_numbering_of_all(ops):
    pre_acts = torch.tensor([[9.0, 2.0, 8.0, 3.0, 1.0], [9.0, -2.0, 8.0, -3.0, 1.0]])
    entries = ops.select_columns(pre_acts, torch.tensor([1, 3, 4]), 2, torch.float64)
    assert [sorted(entries.latents[a:b].tolist()) for a, b in ((0, 2), (2, 3))] == [[1, 3], [4]]
    assert entries.start.tolist() == [0, 2, 3]
    assert (entries.values.dtype, entries.latents.dtype) == (torch.float64, torch.int32)


@both
def test_nothing_to_select_gives_no_entries(ops):
    none = torch.tensor([], dtype=torch.int64)
    pre_acts = torch.tensor([[-1.0, -0.0, 0.0, -torch.inf]])
    for entries in (
        ops.select_top_k(pre_acts, 2, torch.float32),
        ops.select_columns(pre_acts, none, 3, torch.float32),
        ops.select_above(pre_acts, 0.5, torch.float32),
        ops.select_above(pre_acts[:0], 0.5, torch.float32),
    ):
        assert len(entries.values) == len(entries.latents) == 0
        assert int(entries.start[-1]) == 0


def test_rows_name_the_row_of_each_entry():
    entries = Entries(torch.ones(3), torch.zeros(3, dtype=torch.int32), torch.tensor([0, 2, 2, 3]))
    assert entries.n == 3
    assert entries.rows.tolist() == [0, 0, 2]


def test_marked_entries_stay_in_their_rows_and_are_summed_up_by_latent():
    entries = Entries(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([5, 1, 5], dtype=torch.int32), torch.tensor([0, 2, 2, 3]))
    kept = entries.only(torch.tensor([False, True, True]))
    assert (kept.values.tolist(), kept.latents.tolist(), kept.start.tolist()) == ([2.0, 4.0], [1, 5], [0, 1, 1, 2])
    assert entries.sum_by_latent(entries.values * 10, 6).tolist() == [0, 20, 0, 0, 0, 50]


def test_without_numba_the_same_is_done_in_plain_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)  # as if it were not installed
    sparse._compiled.cache_clear()
    try:
        assert sparse._operations(torch.ones(1)) is reference
    finally:
        sparse._compiled.cache_clear()
    monkeypatch.undo()
    assert sparse._operations(torch.ones(1)) is kernels
