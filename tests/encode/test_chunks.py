import numpy as np
import pytest
import torch

from tasks.activations.schema import from_float32
from tasks.encode import chunks
from tasks.encode.chunks import encoded, regrouped
from tests.score.conftest import D_IN, D_SAE, MakeSAE


def rows(n: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, D_IN)).astype(np.float32)


@pytest.mark.parametrize("arch", ["topk", "l1", "dense"])
def test_codes_and_reconstructions_are_those_of_the_dense_sae(make_sae: MakeSAE, arch: str) -> None:
    sae, x = make_sae(arch), rows(40)
    (chunk,) = encoded(sae, [x], "float32")
    codes = chunk.codes
    dense = np.zeros((40, D_SAE), np.float32)
    dense[codes.rows, codes.latents] = codes.values
    np.testing.assert_allclose(dense, sae.encode(torch.from_numpy(x)), atol=1e-6)
    np.testing.assert_allclose(chunk.x_hat(), sae(torch.from_numpy(x)), atol=1e-5)
    assert (codes.values > 0).all()
    assert (np.diff(codes.rows) >= 0).all()


@pytest.mark.parametrize("arch", ["topk", "l1"])
def test_reconstruct_is_the_forward_pass(make_sae: MakeSAE, arch: str) -> None:
    sae, x = make_sae(arch), torch.from_numpy(rows(10))
    torch.testing.assert_close(chunks.reconstruct(sae, x), sae(x))


def test_chunks_cover_all_rows_in_order(make_sae: MakeSAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_CHUNK_ROWS", 16)
    x = rows(50)
    found = list(encoded(make_sae(), [from_float32(x, "bfloat16")], "bfloat16"))
    assert [chunk.start for chunk in found] == [0, 16, 32, 48]
    assert [chunk.stop for chunk in found] == [16, 32, 48, 50]
    np.testing.assert_allclose(np.concatenate([chunk.x for chunk in found]), x, rtol=1 / 128)


@pytest.mark.parametrize("arch", ["topk", "l1"])
@pytest.mark.parametrize("ends", [[16, 32], [1, 2, 3], [5, 5, 49], [50], [0, 33]])
def test_where_blocks_end_changes_no_bit_of_the_codes(
    make_sae: MakeSAE, monkeypatch: pytest.MonkeyPatch, arch: str, ends: list[int]
) -> None:
    monkeypatch.setattr(chunks, "_CHUNK_ROWS", 16)
    sae, x = make_sae(arch), rows(50)
    whole, cut = list(encoded(sae, [x], "float32")), list(encoded(sae, np.split(x, ends), "float32"))
    assert [chunk.start for chunk in cut] == [chunk.start for chunk in whole]
    for a, b in zip(whole, cut, strict=True):
        for name in ("offsets", "latents", "values"):
            assert getattr(a.codes, name).tobytes() == getattr(b.codes, name).tobytes()


def test_regrouping_keeps_rows_in_order_and_drops_none() -> None:
    numbers = np.arange(23)[:, None]
    found = list(regrouped(np.split(numbers, [2, 3, 3, 19]), 5))
    assert [len(part) for part in found] == [5, 5, 5, 5, 3]
    assert np.concatenate(found).tolist() == numbers.tolist()
    assert list(regrouped([], 5)) == []


def test_chunks_of_wide_saes_stay_below_32_mib() -> None:
    assert chunks.chunk_rows(4608) * 4608 * 4 < 32 * 2**20
    assert chunks.chunk_rows(10**9) == 16
