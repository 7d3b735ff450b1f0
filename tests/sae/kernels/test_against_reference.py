"""Every backend against plain torch on the same device: sums to rounding, and the same bits on any number of threads."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tasks.sae.kernels.torch_reference import TorchBackend
from tasks.sae.kernels.types import AdamStep, Coded
from tests.sae.kernels.problems import assert_close, problem

tolerances = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])


@tolerances
def test_decoding_and_gradients_equal_plain_torchs_to_rounding(ops, device, dtype, tolerance):
    at, reference = problem(ops, device, dtype), TorchBackend()
    part, W_dec, weight = at.part, at.W_dec, at.weight
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(part.entries.n, W_dec.shape[1], generator=generator).to(device, dtype)
    coded = Coded(part.entries, W_dec, part.bounds)
    ours, theirs = (backend.decode_rows(target, coded, weight) for backend in (ops, reference))
    assert_close(ours.residual(), theirs.residual(), tolerance)
    for name in ("output_gradient", "d_values", "squared_error"):
        assert_close(getattr(ours, name), getattr(theirs, name), tolerance)
    for backend in (ops, reference):
        d_values = backend.pull_back(ours.output_gradient, coded)
        assert_close(d_values, ours.d_values, tolerance)
    left = replace(part, d_values=None)
    written = []
    for backend in (ops, reference):
        assert backend.decode_rows(target, coded, weight, pull=False).d_values is None
        for parts in ([part, part], [left, left]):
            out = at.parameters()
            backend.by_latent(parts, (0, len(W_dec))).write(W_dec, out)
            written.append(out)
    for other in written[1:]:
        assert_close(written[0].encoder, other.encoder, tolerance)
        assert_close(written[0].W_dec, other.W_dec, tolerance)
        assert_close(written[0].b_enc, other.b_enc, tolerance)


@tolerances
def test_parts_of_the_latents_compare_what_they_decode_to_together(ops, device, dtype, tolerance):
    at = problem(ops, device, dtype)
    part, W_dec, weight = at.part, at.W_dec, at.weight
    target = torch.randn(part.entries.n, W_dec.shape[1], generator=torch.Generator().manual_seed(1)).to(device, dtype)
    coded = Coded(part.entries, W_dec, part.bounds)
    whole = ops.decode_rows(target, coded, weight)
    compared = ops.compare(target, ops.decode_groups(coded), weight)
    assert_close(compared.output_gradient.flatten(0, 1), whole.output_gradient, tolerance)
    assert_close(compared.squared_error, whole.squared_error, tolerance)


@pytest.fixture
def n_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("n_threads")
def test_any_number_of_threads_gives_the_same_bits(ops, device):
    results = []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        at = problem(ops, device, torch.float32)
        state, settings = at.state(), AdamStep(lr=0.1, betas=(0.9, 0.999), eps=1e-8, step=1, unit_norm=True)
        square = ops.by_latent([at.part], (0, len(at.W_dec))).adam(*state, settings)
        results.append([at.part.entries.values, at.part.d_values, square, *(p.flat for p in state)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_decoder_rows_keep_norm_1_when_told_to(ops, device):
    at = problem(ops, device, torch.float32)
    state, settings = at.state(), AdamStep(lr=0.1, betas=(0.9, 0.999), eps=1e-8, step=1, unit_norm=True)
    ops.by_latent([at.part], (0, len(at.W_dec))).adam(*state, settings)
    assert torch.allclose(state[0].W_dec.norm(dim=1), torch.ones(len(at.W_dec), device=device), atol=1e-6)
