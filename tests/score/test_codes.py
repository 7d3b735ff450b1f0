import numpy as np
import pytest
import torch

from tasks.score import codes
from tasks.store.schema import from_float32
from tests.score.conftest import D_IN, D_SAE, MakeSAE


def rows(n: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, D_IN)).astype(np.float32)


@pytest.mark.parametrize("arch", ["topk", "l1", "dense"])
def test_codes_and_reconstructions_are_those_of_the_dense_sae(make_sae: MakeSAE, arch: str) -> None:
    sae, x = make_sae(arch), rows(40)
    found, x_hat = codes.encode_decode(sae, x)
    dense = np.zeros((40, D_SAE), np.float32)
    dense[found.row, found.latent] = found.value
    np.testing.assert_allclose(dense, sae.encode(torch.from_numpy(x)), atol=1e-6)
    np.testing.assert_allclose(x_hat, sae(torch.from_numpy(x)), atol=1e-5)
    assert (found.value > 0).all()
    assert (np.diff(found.row) >= 0).all()


@pytest.mark.parametrize("arch", ["topk", "l1"])
def test_reconstruct_is_the_forward_pass(make_sae: MakeSAE, arch: str) -> None:
    sae, x = make_sae(arch), torch.from_numpy(rows(10))
    torch.testing.assert_close(codes.reconstruct(sae, x), sae(x))


def test_chunks_cover_all_rows_in_order(make_sae: MakeSAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "_CHUNK_ROWS", 16)
    x = rows(50)
    found = list(codes.chunks(make_sae(), from_float32(x, "bfloat16"), "bfloat16"))
    assert [chunk.start for chunk in found] == [0, 16, 32, 48]
    np.testing.assert_allclose(np.concatenate([chunk.x for chunk in found]), x, rtol=1 / 128)


def test_chunks_of_wide_saes_stay_below_32_mib() -> None:
    assert codes.chunk_rows(4608) * 4608 * 4 < 32 * 2**20
    assert codes.chunk_rows(10**9) == 16
