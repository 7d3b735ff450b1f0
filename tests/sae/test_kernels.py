"""Compiled kernels against plain torch: selection bit for bit, sums to rounding, and the same bits on any threads."""

import multiprocessing
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.sae import kernels, reference
from tasks.sae.across import _in_columns
from tasks.sae.entries import AdamStep, Entries, Part
from tasks.sae.kernels import threads
from tasks.sae.parameters import Layout, Parameters, zeros
from tests.patience import PATIENCE_S

PRECISIONS = (torch.bfloat16, torch.float32, torch.float64)
SPECIAL = (0.0, -0.0, torch.inf, -torch.inf, 1e-40, -1e-40)


@st.composite
def pre_activations(draw: st.DrawFn) -> Tensor:
    """Some rows of any width, with few or many ties, and with the numbers that are not like others."""
    width, levels = draw(st.integers(1, 700)), draw(st.sampled_from([1, 3, 1000]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    shift = draw(st.sampled_from([-2.0, 0.0, 2.0]))  # all negative, mixed, all positive
    pre_acts = torch.randint(-levels, levels + 1, (5, width), generator=generator) / levels + shift
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), pre_acts.shape, generator=generator)]
    rare = torch.rand(pre_acts.shape, generator=generator) < draw(st.sampled_from([0.0, 0.05]))
    return special.where(rare, pre_acts).to(draw(st.sampled_from(PRECISIONS)))


def by_row(entries: Entries) -> list[dict[int, float]]:
    rows = [slice(a, b) for a, b in zip(entries.start[:-1].tolist(), entries.start[1:].tolist(), strict=True)]
    found = [dict(zip(entries.latents[row].tolist(), entries.values[row].tolist(), strict=True)) for row in rows]
    assert [len(latents) for latents in found] == [row.stop - row.start for row in rows]  # none twice
    return found


@settings(max_examples=150, deadline=None)
@given(pre_activations(), st.data())
def test_top_k_are_the_largest_positive_ones_at_any_width_and_k(pre_acts, data):
    k = data.draw(st.one_of(st.just(pre_acts.shape[1]), st.integers(1, pre_acts.shape[1])))
    found = by_row(kernels.select_top_k(pre_acts, k, torch.float64))
    for row, entries in zip(pre_acts.double(), found, strict=True):
        expected = row.topk(k).values
        assert sorted(entries.values(), reverse=True) == expected[expected > 0].tolist()
        assert all(row[latent] == value for latent, value in entries.items())


@settings(max_examples=100, deadline=None)
@given(pre_activations(), st.data())
def test_columns_are_selected_as_if_there_were_no_others(pre_acts, data):
    columns = torch.tensor(sorted(data.draw(st.sets(st.integers(0, pre_acts.shape[1] - 1), min_size=1))))
    k = data.draw(st.integers(1, pre_acts.shape[1]))
    found = by_row(kernels.select_columns(pre_acts, columns, k, torch.float64))
    alone = by_row(kernels.select_top_k(pre_acts[:, columns], k, torch.float64))
    assert [sorted(row.values()) for row in found] == [sorted(row.values()) for row in alone]
    assert all(pre_acts.double()[r, i] == value for r, row in enumerate(found) for i, value in row.items())
    assert {latent for row in found for latent in row} <= set(columns.tolist())


@settings(max_examples=150, deadline=None)
@given(pre_activations(), st.data())
def test_the_largest_of_all_parts_of_a_row_are_each_kept_by_the_part_that_has_it(pre_acts, data):
    n_parts = data.draw(st.sampled_from([n for n in (1, 2, 3, 5) if n <= pre_acts.shape[1]]))
    width = pre_acts.shape[1] // n_parts
    pre_acts = pre_acts[:, : n_parts * width]
    k = data.draw(st.integers(1, width))
    found = [kernels.select_top_k(part, k, torch.float64) for part in pre_acts.chunk(n_parts, 1)]
    rivals = torch.stack([_in_columns(part, k, pre_acts.dtype) for part in found])
    whole = by_row(kernels.select_top_k(pre_acts, k, torch.float64))
    for ops in (kernels, reference):
        kept = [by_row(ops.keep_largest(entries, rivals, part)) for part, entries in enumerate(found)]
        for r, row in enumerate(whole):
            values = [value for part in kept for value in part[r].values()]
            assert sorted(values) == sorted(row.values())
        for part, rows in enumerate(kept):
            assert all(pre_acts.double()[r, part * width + i] == v for r, row in enumerate(rows) for i, v in row.items())


@settings(max_examples=100, deadline=None)
@given(pre_activations(), st.sampled_from([-1.0, 0.0, 1e-3, 0.3337, 1.0, 2.5, 10.0]), st.booleans())
def test_what_is_above_a_level_is_the_same_as_in_plain_torch(pre_acts, level, is_each_latents_own):
    levels = level + torch.arange(pre_acts.shape[1]) % 3 / 2 if is_each_latents_own else level
    ours, theirs = (ops.select_above(pre_acts, levels, torch.float64) for ops in (kernels, reference))
    assert by_row(ours) == by_row(theirs)
    above = pre_acts.double() > torch.as_tensor(levels, dtype=torch.float64)
    assert [set(row) for row in by_row(ours)] == [set(row.nonzero().flatten().tolist()) for row in above]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("place", [0, 50, 96])
def test_nan_of_either_sign_reaches_the_values_of_its_row_and_of_no_other(dtype, sign, place):
    pre_acts = torch.linspace(-1, 1, 97).repeat(3, 1).to(dtype)
    pre_acts[1, place] = torch.tensor(torch.nan, dtype=dtype).copysign(torch.tensor(sign, dtype=dtype))
    for ops in (kernels, reference):
        for entries in (ops.select_top_k(pre_acts, 4, torch.float32), ops.select_above(pre_acts, 0.9, torch.float32)):
            spoilt = [torch.tensor(list(row.values())).isnan().any().item() for row in by_row(entries)]
            assert spoilt == [False, True, False]
    decoded = kernels.decode_rows(torch.zeros(3, 2), entries, torch.ones(97, 2), torch.ones(1), (97,))
    assert torch.isfinite(decoded.residual()).all(1).tolist() == [True, False, True]


def problem(dtype: torch.dtype, n: int = 200, d_in: int = 37, d_sae: int = 500, d_out: int = 45) -> tuple[Part, Tensor]:
    """Entries of rows, few and many, with their gradients; the decoder."""
    generator = torch.Generator().manual_seed(0)
    x, target, pre_acts, W_dec = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((n, d_in), (n, d_out), (n, d_sae), (d_sae, d_out))
    )
    bounds, weight = (60, 200, d_sae), torch.tensor([0.5, 0.3, 0.2], dtype=dtype)
    entries = kernels.select_top_k(pre_acts - torch.arange(d_sae) / d_sae, 19, dtype)
    rows = kernels.decode_rows(target, entries, W_dec, weight, bounds)
    return Part(entries, rows.d_values, rows.output_gradient, x, bounds), W_dec


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_decoding_and_gradients_equal_plain_torchs_to_rounding(dtype, tolerance):
    part, W_dec = problem(dtype)
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(part.entries.n, W_dec.shape[1], generator=generator).to(dtype)
    weight = torch.tensor([0.5, 0.3, 0.2], dtype=dtype)
    ours, theirs = (ops.decode_rows(target, part.entries, W_dec, weight, part.bounds) for ops in (kernels, reference))
    assert_close(ours.residual(), theirs.residual(), tolerance)
    for name in ("output_gradient", "d_values", "squared_error"):
        assert_close(getattr(ours, name), getattr(theirs, name), tolerance)
    pulled = [ops.pull_back(ours.output_gradient, part.entries, W_dec, part.bounds) for ops in (kernels, reference)]
    for d_values in pulled:
        assert_close(d_values, ours.d_values, tolerance)
    left = replace(part, d_values=None)
    written = []
    for ops in (kernels, reference):
        assert ops.decode_rows(target, part.entries, W_dec, weight, part.bounds, pull=False).d_values is None
        for parts in ([part, part], [left, left]):
            out = parameters(part, W_dec)
            ops.by_latent(parts, (0, len(W_dec)), None).write(W_dec, out)
            written.append(out)
    for other in written[1:]:
        assert_close(written[0].encoder, other.encoder, tolerance)
        assert_close(written[0].W_dec, other.W_dec, tolerance)
        assert_close(written[0].b_enc, other.b_enc, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_parts_of_the_latents_compare_what_they_decode_to_together(dtype, tolerance):
    part, W_dec = problem(dtype)
    target = torch.randn(part.entries.n, W_dec.shape[1], generator=torch.Generator().manual_seed(1)).to(dtype)
    weight = torch.tensor([0.5, 0.3, 0.2], dtype=dtype)
    whole = kernels.decode_rows(target, part.entries, W_dec, weight, part.bounds)
    for ops in (kernels, reference):
        compared = ops.compare(target, ops.decode_groups(part.entries, W_dec, part.bounds), weight)
        assert_close(compared.output_gradient.flatten(0, 1), whole.output_gradient, tolerance)
        assert_close(compared.squared_error, whole.squared_error, tolerance)


def test_parts_with_and_without_gradients_on_values_are_not_mixed():
    part, W_dec = problem(torch.float32)
    with pytest.raises(ValueError, match="Some parts have d_values and some have none"):
        kernels.by_latent([part, replace(part, d_values=None)], (0, len(W_dec)))


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).double().norm()) <= tolerance * float(theirs.double().norm())


def parameters(part: Part, W_dec: Tensor) -> Parameters:
    d_sae, d_out = W_dec.shape
    return zeros(Layout(part.x.shape[1], d_sae, d_out), W_dec.dtype)


@pytest.fixture
def n_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("n_threads")
def test_any_number_of_threads_gives_the_same_bits():
    results = []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        part, W_dec = problem(torch.float32)
        state = [parameters(part, W_dec) for _ in range(3)]
        state[0].W_dec.copy_(torch.nn.functional.normalize(W_dec))
        settings = AdamStep(lr=0.1, betas=(0.9, 0.999), eps=1e-8, step=1, unit_norm=True)
        square = kernels.by_latent([part], (0, len(W_dec)), None).adam(*state, settings)
        results.append([part.entries.values, part.d_values, square, *(p.flat for p in state)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_decoder_rows_keep_norm_1_when_told_to():
    part, W_dec = problem(torch.float32)
    state = [parameters(part, W_dec) for _ in range(3)]
    state[0].W_dec.copy_(torch.nn.functional.normalize(W_dec))
    settings = AdamStep(lr=0.1, betas=(0.9, 0.999), eps=1e-8, step=1, unit_norm=True)
    kernels.by_latent([part], (0, len(W_dec)), None).adam(*state, settings)
    assert torch.allclose(state[0].W_dec.norm(dim=1), torch.ones(len(W_dec)), atol=1e-6)


@pytest.fixture(params=["openmp", "plain"])
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, n_threads: None) -> None:
    """Three threads, of either kind."""
    torch.set_num_threads(3)
    if request.param == "plain":
        monkeypatch.setattr(threads, "_runner", lambda process: threads.plain)
    elif threads._runner(os.getpid()) is threads.plain:
        pytest.skip("torch has not GNU OpenMP's threads here")


def _fill(n: int) -> None:
    done = np.zeros(n, np.int64)

    def work(low: int, high: int) -> None:
        done[low:high] += 1

    threads.share(work, n, 3)
    assert (done == 1).all()


@pytest.mark.usefixtures("runner")
def test_work_is_shared_out_whole():
    _fill(100)
    _fill(2)
    _fill(0)


@pytest.mark.usefixtures("runner")
def test_work_runs_on_several_threads_at_once():
    together = threading.Barrier(3, timeout=PATIENCE_S)
    threads.share(lambda low, high: together.wait(), 3, 1)


@pytest.mark.usefixtures("runner")
def test_work_is_shared_out_in_a_forked_process_too():
    _fill(100)
    child = multiprocessing.get_context("fork").Process(target=_fill, args=(50,))
    child.start()
    child.join(30)
    assert child.exitcode == 0


@pytest.mark.usefixtures("runner")
def test_an_error_on_any_thread_is_raised():
    together = threading.Barrier(3, timeout=PATIENCE_S)

    def work(low: int, high: int) -> None:
        together.wait()
        if low == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        threads.share(work, 3, 1)


def test_kernels_call_those_of_their_own_file_only():  # numba keeps machine code until that file changes, whatever it calls
    folder = Path(kernels.__file__).parent
    homes = {path.stem: path.read_text() for path in folder.glob("*.py") if "@kernel\n" in path.read_text()}
    assert len(homes) >= 3
    for text in homes.values():
        assert re.findall(r"from tasks\.sae\.kernels\.(\w+)", text) in (["jit"], ["jit", "threads"])
