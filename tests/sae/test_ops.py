import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.sae.ops import SparseCodes, decode_sparse, densify, top_k


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.data())
def test_top_k_finds_the_same_values_as_torch_for_any_width_and_k(d_sae, data):
    k = data.draw(st.integers(1, d_sae))
    levels = data.draw(st.sampled_from([3, 1000]))  # 3 levels: ties everywhere
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    pre_acts = torch.randint(-levels, levels, (4, d_sae), generator=generator) / levels
    codes = top_k(pre_acts, k)
    assert torch.equal(codes.values.sort(descending=True).values, pre_acts.topk(k).values.relu())
    assert torch.equal(pre_acts.gather(1, codes.indices).relu(), codes.values)
    assert all(len(set(row.tolist())) == k for row in codes.indices)


def test_top_k_finds_the_largest_in_the_columns_that_fit_into_no_group():
    pre_acts = torch.arange(19.0)[None]  # k 1: four groups of four columns, three left over
    assert top_k(pre_acts, 1).indices.tolist() == [[18]]


def test_densify_puts_each_value_in_its_column():
    codes = SparseCodes(torch.tensor([[2.0, 1.0], [3.0, 0.0]]), torch.tensor([[3, 0], [1, 2]]))
    assert densify(codes, 4).tolist() == [[1, 0, 0, 2], [0, 3, 0, 0]]


def test_sparse_decoding_equals_the_dense_product():
    codes, W_dec = _codes(), torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(decode_sparse(codes, W_dec), densify(codes, 7) @ W_dec, rtol=1e-12)


def _codes() -> SparseCodes:
    return top_k(torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), 2)
