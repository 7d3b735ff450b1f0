"""Every backend selects what the definition selects, bit for bit, whatever the numbers are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.sae.kernels.torch_reference import TorchBackend
from tasks.sae.kernels.types import Coded
from tasks.sae.latent_parallel import _in_columns
from tests.sae.kernels.problems import PRECISIONS, by_row, pre_activations, tries


@settings(max_examples=tries(150), deadline=None)
@given(pre_acts=pre_activations(), data=st.data())
def test_top_k_are_the_largest_positive_ones_at_any_width_and_k(ops, device, pre_acts, data):
    pre_acts = pre_acts.to(device)
    k = data.draw(st.one_of(st.just(pre_acts.shape[1]), st.integers(1, pre_acts.shape[1])))
    found = by_row(ops.select_top_k(pre_acts, k, torch.float64))
    for row, entries in zip(pre_acts.double(), found, strict=True):
        expected = row.topk(k).values
        assert sorted(entries.values(), reverse=True) == expected[expected > 0].tolist()
        assert all(row[latent] == value for latent, value in entries.items())


@settings(max_examples=tries(100), deadline=None)
@given(pre_acts=pre_activations(), data=st.data())
def test_columns_are_selected_as_if_there_were_no_others(ops, device, pre_acts, data):
    pre_acts = pre_acts.to(device)
    columns = torch.tensor(sorted(data.draw(st.sets(st.integers(0, pre_acts.shape[1] - 1), min_size=1))), device=device)
    k = data.draw(st.integers(1, pre_acts.shape[1]))
    found = by_row(ops.select_columns(pre_acts, columns, k, torch.float64))
    alone = by_row(ops.select_top_k(pre_acts[:, columns], min(k, len(columns)), torch.float64))
    assert [sorted(row.values()) for row in found] == [sorted(row.values()) for row in alone]
    assert all(pre_acts.double()[r, i] == value for r, row in enumerate(found) for i, value in row.items())
    assert {latent for row in found for latent in row} <= set(columns.tolist())


@settings(max_examples=tries(150), deadline=None)
@given(pre_acts=pre_activations(), data=st.data())
def test_the_largest_of_all_parts_of_a_row_are_each_kept_by_the_part_that_has_it(ops, device, pre_acts, data):
    n_parts = data.draw(st.sampled_from([n for n in (1, 2, 3, 5) if n <= pre_acts.shape[1]]))
    width = pre_acts.shape[1] // n_parts
    pre_acts = pre_acts[:, : n_parts * width].to(device)
    k = data.draw(st.integers(1, width))
    found = [ops.select_top_k(part, k, torch.float64) for part in pre_acts.chunk(n_parts, 1)]
    rivals = torch.stack([_in_columns(part, k, pre_acts.dtype) for part in found])
    whole = by_row(ops.select_top_k(pre_acts, k, torch.float64))
    kept = [by_row(ops.keep_largest(entries, rivals, part)) for part, entries in enumerate(found)]
    for r, row in enumerate(whole):
        values = [value for part in kept for value in part[r].values()]
        assert sorted(values) == sorted(row.values())
    for part, rows in enumerate(kept):
        assert all(pre_acts.double()[r, part * width + i] == v for r, row in enumerate(rows) for i, v in row.items())


@settings(max_examples=tries(100), deadline=None)
@given(
    pre_acts=pre_activations(),
    level=st.sampled_from([-1.0, 0.0, 1e-3, 0.3337, 1.0, 2.5, 10.0]),
    is_each_latents_own=st.booleans(),
)
def test_what_is_above_a_level_is_the_same_as_in_plain_torch(ops, device, pre_acts, level, is_each_latents_own):
    pre_acts = pre_acts.to(device)
    levels = level + torch.arange(pre_acts.shape[1], device=device) % 3 / 2 if is_each_latents_own else level
    ours, theirs = (backend.select_above(pre_acts, levels, torch.float64) for backend in (ops, TorchBackend()))
    assert by_row(ours) == by_row(theirs)
    above = pre_acts.double() > torch.as_tensor(levels, dtype=torch.float64, device=device)
    assert [set(row) for row in by_row(ours)] == [set(row.nonzero().flatten().tolist()) for row in above]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("place", [0, 50, 96])
def test_nan_of_either_sign_reaches_the_values_of_its_row_and_of_no_other(ops, device, dtype, sign, place):
    pre_acts = torch.linspace(-1, 1, 97).repeat(3, 1).to(device, dtype)
    pre_acts[1, place] = torch.tensor(torch.nan, dtype=dtype).copysign(torch.tensor(sign, dtype=dtype))
    for entries in (ops.select_top_k(pre_acts, 4, torch.float32), ops.select_above(pre_acts, 0.9, torch.float32)):
        spoilt = [torch.tensor(list(row.values())).isnan().any().item() for row in by_row(entries)]
        assert spoilt == [False, True, False]
    target, W_dec, weight = (torch.full(shape, 1.0, device=device) for shape in ((3, 2), (97, 2), (1,)))
    decoded = ops.decode_rows(target - 1, Coded(entries, W_dec, (97,)), weight)
    assert torch.isfinite(decoded.residual()).all(1).tolist() == [True, False, True]


def test_numbers_are_above_a_level_between_two_of_their_precision_or_on_one_of_them(ops, device):
    pre_acts = torch.tensor([[1.0, 1.0078125, -3.0, -0.0]], dtype=torch.bfloat16, device=device)
    found = {level: ops.select_above(pre_acts, level, torch.float32).latents.tolist() for level in (1.007, 1.0, 0.999)}
    assert found == {1.007: [1], 1.0: [1], 0.999: [0, 1]}
    found = {level: ops.select_above(pre_acts, level, torch.float32).latents.tolist() for level in (0.0, -0.1, -3.0, -3.1)}
    assert found == {0.0: [0, 1], -0.1: [0, 1, 3], -3.0: [0, 1, 3], -3.1: [0, 1, 2, 3]}


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_each_latent_may_have_a_level_of_its_own(ops, device, dtype):
    pre_acts = torch.tensor([[1.0, 1.0, -1.0, -1.0], [0.5, 2.0, 0.0, -0.5]], dtype=dtype, device=device)
    entries = ops.select_above(pre_acts, torch.tensor([0.5, 1.001, -1.0, -1.001], device=device), torch.float64)
    assert [entries.latents[a:b].tolist() for a, b in ((0, 2), (2, 5))] == [[0, 3], [1, 2, 3]]
    assert entries.values.tolist() == [1.0, -1.0, 2.0, 0.0, -0.5]


def test_columns_are_named_in_the_numbering_of_all(ops, device):
    pre_acts = torch.tensor([[9.0, 2.0, 8.0, 3.0, 1.0], [9.0, -2.0, 8.0, -3.0, 1.0]], device=device)
    entries = ops.select_columns(pre_acts, torch.tensor([1, 3, 4], device=device), 2, torch.float64).without_padding()
    assert [sorted(entries.latents[a:b].tolist()) for a, b in ((0, 2), (2, 3))] == [[1, 3], [4]]
    assert entries.start.tolist() == [0, 2, 3]
    assert (entries.values.dtype, entries.latents.dtype) == (torch.float64, torch.int32)


def test_nothing_to_select_gives_no_entries(ops, device):
    none = torch.tensor([], dtype=torch.int64, device=device)
    pre_acts = torch.tensor([[-1.0, -0.0, 0.0, -torch.inf]], device=device)
    for entries in (
        ops.select_top_k(pre_acts, 2, torch.float32),
        ops.select_columns(pre_acts, none, 3, torch.float32),
        ops.select_above(pre_acts, 0.5, torch.float32),
        ops.select_above(pre_acts[:0], 0.5, torch.float32),
    ):
        assert int(entries.count) == 0
        assert not entries.fired(4).any()
        found = entries.without_padding()
        assert len(found.values) == len(found.latents) == int(found.start[-1]) == 0
