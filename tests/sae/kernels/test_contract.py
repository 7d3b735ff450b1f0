"""Every backend against dense autograd and torch's Adam, in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tasks.sae.kernels.backend import Backend, ByLatent
from tasks.sae.kernels.torch_reference import TorchBackend
from tasks.sae.kernels.types import AdamStep, AddedGradients, Coded, DecodedRows, Entries, Part
from tasks.sae.parameters import Layout, Parameters, zeros
from tests.sae.kernels.problems import INTERPRETED

N, D_IN, D_SAE, D_OUT, K = (6, 6, 24, 9, 5) if INTERPRETED else (24, 6, 40, 9, 5)
WEIGHTS = {(D_SAE,): [0.3], (7, 20, D_SAE): [0.5, 0.25, 2.0]}

prefixes = pytest.mark.parametrize("bounds", WEIGHTS)


def randn(*shape: int, seed: int, device: str) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(device)


def no_parameters(device: str) -> Parameters:
    return zeros(Layout(D_IN, D_SAE, D_OUT), torch.float64, device)


def random_parameters(device: str, seed: int = 0) -> Parameters:
    parameters = no_parameters(device)
    parameters.flat.copy_(randn(len(parameters.flat), seed=seed, device=device))
    return parameters


def random_rows(device: str, seed: int = 1) -> tuple[Tensor, Tensor]:
    """What is encoded, and what is to be rebuilt."""
    return randn(N, D_IN, seed=seed, device=device), randn(N, D_OUT, seed=-seed, device=device)


def tensors(parameters: Parameters) -> list[Tensor]:
    return [parameters.encoder, parameters.W_dec, parameters.b_enc]


def sparse_gradients(
    ops: Backend, parameters: Parameters, x: Tensor, target: Tensor, bounds: tuple[int, ...]
) -> tuple[Part, DecodedRows]:
    pre_acts = torch.addmm(parameters.b_enc, x, parameters.encoder.T)
    selecting = TorchBackend() if INTERPRETED else ops  # for a row of float64 the interpreter takes 54 ms
    entries = selecting.select_top_k(pre_acts, K, torch.float64)
    weight = torch.tensor(WEIGHTS[bounds], dtype=torch.float64, device=x.device)
    rows = ops.decode_rows(target, Coded(entries, parameters.W_dec, bounds), weight)
    return Part(entries, rows.d_values, rows.output_gradient, x, bounds), rows


def dense_loss(parameters: list[Tensor], entries: Entries, x: Tensor, target: Tensor, bounds: tuple[int, ...]) -> Tensor:
    encoder, W_dec, b_enc = parameters
    active = torch.zeros(N, D_SAE, dtype=torch.bool, device=x.device)
    active[entries.rows.long(), entries.latents.long()] = True
    codes = torch.addmm(b_enc, x, encoder.T).where(active, 0.0)
    errors = [(target - codes[:, :end] @ W_dec[:end]).square().sum() for end in bounds]
    return sum((w * error for w, error in zip(WEIGHTS[bounds], errors, strict=True)), torch.zeros((), device=x.device))


def assert_same(ours: Tensor, theirs: Tensor, tolerance: float = 1e-12) -> None:
    assert float((ours - theirs).norm()) <= tolerance * float(theirs.norm())


@prefixes
def test_gradients_of_nested_prefixes_equal_dense_autograd(ops, device, bounds):
    parameters, (x, target) = random_parameters(device), random_rows(device)
    part, rows = sparse_gradients(ops, parameters, x, target, bounds)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors(parameters)]
    loss = dense_loss(leaves, part.entries, x, target, bounds)
    out = random_parameters(device, seed=9)  # every number has to be overwritten
    ops.by_latent([part], (0, D_SAE)).write(parameters.W_dec, out)
    weight = torch.tensor(WEIGHTS[bounds], dtype=torch.float64, device=device)
    assert float(rows.squared_error @ weight) == pytest.approx(loss.item())
    for ours, theirs in zip(tensors(out), torch.autograd.grad(loss, leaves), strict=True):
        assert_same(ours, theirs)


def test_the_residual_is_what_all_latents_leave_of_the_target(ops, device):
    parameters, (x, target) = random_parameters(device), random_rows(device)
    part, rows = sparse_gradients(ops, parameters, x, target, (7, 20, D_SAE))
    codes = torch.zeros(N, D_SAE, dtype=torch.float64, device=device)
    codes[part.entries.rows.long(), part.entries.latents.long()] = part.entries.values
    assert_same(rows.residual(), target - codes @ parameters.W_dec)
    assert float(rows.squared_error[-1]) == pytest.approx(float(rows.residual().square().sum()))


@pytest.mark.parametrize("same_x", [True, False])
def test_parts_add_up_and_radial_and_bias_add_multiples_of_decoder_rows_and_numbers(ops, device, same_x):
    parameters, (x, target) = random_parameters(device), random_rows(device)
    first, rows = sparse_gradients(ops, parameters, x, target, (7, 20, D_SAE))
    second, _ = sparse_gradients(ops, parameters, x if same_x else x + 1, rows.residual(), (D_SAE,))
    radial, bias = randn(D_SAE, seed=3, device=device), randn(D_SAE, seed=4, device=device)
    together, *apart = (random_parameters(device, seed=9) for _ in range(3))
    ops.by_latent([first, second], (0, D_SAE), AddedGradients(radial, bias)).write(parameters.W_dec, together)
    for part, out in zip((first, second), apart, strict=True):
        ops.by_latent([part], (0, D_SAE)).write(parameters.W_dec, out)
    assert_same(together.W_dec, apart[0].W_dec + apart[1].W_dec + radial[:, None] * parameters.W_dec)
    assert_same(together.encoder, apart[0].encoder + apart[1].encoder)
    assert_same(together.b_enc, apart[0].b_enc + apart[1].b_enc + bias)


@pytest.mark.parametrize("unit_norm", [True, False])
def test_the_fused_update_is_adams_on_the_same_gradient(ops, device, unit_norm):
    ours, theirs = random_parameters(device), random_parameters(device)
    for parameters in (ours, theirs):
        parameters.W_dec.div_(parameters.W_dec.norm(dim=1, keepdim=True))
    moments = no_parameters(device), no_parameters(device)
    optimizer = torch.optim.Adam(tensors(theirs), lr=0.05, betas=(0.8, 0.97), eps=1e-5)
    for step in range(1, 3 if INTERPRETED else 6):
        (x, target), radial = random_rows(device, seed=step), randn(D_SAE, seed=10 + step, device=device)
        part, _ = sparse_gradients(ops, ours, x, target, (D_SAE,))
        added = AddedGradients(radial, randn(D_SAE, seed=20 + step, device=device))
        by_latent = ops.by_latent([part], (0, D_SAE), added)
        settings = AdamStep(lr=0.05, betas=(0.8, 0.97), eps=1e-5, step=step, unit_norm=unit_norm)
        square = adam_by_torch(optimizer, by_latent, theirs, unit_norm)
        assert_same(by_latent.adam(ours, *moments, settings), square)
        for a, b in zip(tensors(ours), tensors(theirs), strict=True):
            assert_same(a, b, 1e-11)  # steps look at the parameters of the ones before


def adam_by_torch(optimizer: torch.optim.Adam, by_latent: ByLatent, parameters: Parameters, unit_norm: bool) -> Tensor:
    """One step; the squared norm of its gradient."""
    gradient = random_parameters(parameters.flat.device.type, seed=9)
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


def test_latents_without_entries_move_on_by_their_momentum(ops, device):
    parameters, (x, target) = random_parameters(device), random_rows(device)
    parameters.b_enc[3] = -1e4
    moments = random_parameters(device, seed=7), no_parameters(device)
    before, part = parameters.encoder[3].clone(), sparse_gradients(ops, parameters, x, target, (D_SAE,))[0]
    settings = AdamStep(lr=0.05, betas=(0.9, 0.999), eps=1.0, step=1)
    pushed = -0.05 / (1 - 0.9) * 0.9 * moments[0].encoder[3]
    ops.by_latent([part], (0, D_SAE)).adam(parameters, *moments, settings)
    assert_same(parameters.encoder[3] - before, pushed, 1e-10)


@pytest.mark.parametrize("by_bias", [True, False])
def test_only_the_latents_of_ones_own_are_updated_and_they_as_among_all(ops, device, by_bias):
    parameters, (x, target) = random_parameters(device), random_rows(device)
    part, _ = sparse_gradients(ops, parameters, x, target, (7, 20, D_SAE))
    radial, bias = randn(D_SAE, seed=3, device=device), randn(D_SAE, seed=4, device=device) if by_bias else None
    whole, own = random_parameters(device, seed=9), [torch.full_like(t[5:23], torch.nan) for t in tensors(parameters)]
    added = AddedGradients(radial, bias)
    ops.by_latent([part], (0, D_SAE), added).write(parameters.W_dec, whole)
    encoder, W_dec, b_enc = own
    out = replace(whole, encoder=encoder, W_dec=W_dec, b_enc=b_enc)
    ops.by_latent([part], (5, 23), added.within(5, 23)).write(parameters.W_dec[5:23], out)
    for mine, of_all in zip(own, tensors(whole), strict=True):
        assert_same(mine, of_all[5:23])


def test_rows_with_written_gradients_are_updated_as_by_adam(ops, device):
    ours, theirs = random_parameters(device), random_parameters(device)
    moments = no_parameters(device), no_parameters(device)
    optimizer = torch.optim.Adam(tensors(theirs), lr=0.05, betas=(0.8, 0.97), eps=1e-5)
    for step in range(1, 4):
        gradient = random_parameters(device, seed=step)
        settings = AdamStep(lr=0.05, betas=(0.8, 0.97), eps=1e-5, step=step)
        ops.adam_rows(tensors(ours), tensors(gradient), *map(tensors, moments), settings)
        for tensor, its_gradient in zip(tensors(theirs), tensors(gradient), strict=True):
            tensor.grad = its_gradient
        optimizer.step()
        for a, b in zip(tensors(ours), tensors(theirs), strict=True):
            assert_same(a, b)
